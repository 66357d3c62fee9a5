"""The tasks of one job that are in flight: first in, first out."""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections import deque
from dataclasses import dataclass, field
from math import inf
from threading import Event
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker

from slidesr.errors import SlidesrError, StoppedError
from slidesr.pipeline.dask_cluster.worker import Blocks, WorkerJob, block_text, upscale_blocks
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.run import BlockResult
from slidesr.runtime.closeable import Closeable

_log = logging.getLogger(__name__)
_RETRIES = 2
_LOOK_S = 1.0
_PATIENCE_S = 30.0  # or ten times the slowest task so far: then a block is tried elsewhere
_GO_ON = "The same command resumes from here."


@dataclass
class _Ticket:
    """Blocks in flight; a second future where the first seems to hang."""

    blocks: Blocks
    futures: list[Future[Any]] = field(default_factory=list)
    ended: Event = field(default_factory=Event)  # set when any future is


class TaskQueue(Closeable):
    """`put` blocks, `take` their results in the same order; closing cancels those in flight."""

    def __init__(
        self, client: Client, packed_job: WorkerJob, stopped: Event, *, most_alone_s: float = inf
    ) -> None:
        """Raises SlidesrError after `most_alone_s` without any worker."""
        self._client, self._packed_job, self._stopped = client, packed_job, stopped
        self._name = f"slidesr-{uuid4().hex[:8]}"
        self._tickets: deque[_Ticket] = deque()
        self._slowest_s, self._most_alone_s = 0.0, most_alone_s
        self._alone_since_s: float | None = None

    def __len__(self) -> int:
        return len(self._tickets)

    def close(self) -> None:
        futures = [future for ticket in self._tickets for future in ticket.futures]
        self._tickets.clear()
        if futures and self._client.status == "running":
            self._client.cancel(futures)

    def put(self, blocks: Blocks) -> None:
        ticket = _Ticket(blocks)
        self._submit(ticket)
        self._tickets.append(ticket)

    def take(self, watch: Stopwatch) -> list[BlockResult]:
        """Waits for the results of the oldest blocks. Raises SlidesrError where they fail."""
        ticket = self._tickets[0]
        with watch("wait for workers"):
            results, seconds = self._fetched(ticket)
        watch.add(seconds)
        self._slowest_s = max(self._slowest_s, sum(seconds.values()))
        self._tickets.popleft()  # releases its futures, and so the result on the worker
        return results

    def _submit(self, ticket: _Ticket, workers: list[str] | None = None) -> None:
        index = ticket.blocks[0].index
        future = self._client.submit(
            upscale_blocks,
            self._packed_job,
            ticket.blocks,
            key=(f"{self._name}-{len(ticket.futures)}", index),
            retries=_RETRIES,
            priority=-index,
            workers=workers,
        )
        ticket.futures.append(future)
        future.add_done_callback(lambda _: ticket.ended.set())

    def _fetched(self, ticket: _Ticket) -> tuple[list[BlockResult], dict[str, float]]:
        began_s = time.monotonic()
        while True:
            future = self._first_done(ticket)
            patience_s = max(_PATIENCE_S, 10 * (self._slowest_s or _PATIENCE_S))
            if future is None:
                if time.monotonic() - began_s > patience_s and len(ticket.futures) == 1:
                    self._try_elsewhere(ticket)
                continue
            try:
                result: tuple[list[BlockResult], dict[str, float]] = future.result(
                    timeout=patience_s
                )
            except TimeoutError:  # the worker that holds it does not answer
                if len(ticket.futures) == 1:
                    self._try_elsewhere(ticket)
                continue
            except KilledWorker as error:
                raise SlidesrError(_killed(ticket.blocks, error)) from error
            except CancelledError as error:
                raise SlidesrError(
                    f"the scheduler {self._address} is gone, or took the block back. {_GO_ON}"
                ) from error
            except Exception as error:
                raise _last(error, ticket.blocks) from error
            return result

    def _first_done(self, ticket: _Ticket) -> Future[Any] | None:
        """A future that has ended, or None after a while; warns when there is no worker."""
        if not ticket.ended.wait(_LOOK_S):
            self._look()
        if self._stopped.is_set():
            raise StoppedError(f"stopped. {_GO_ON}")
        return next((future for future in ticket.futures if future.done()), None)

    def _look(self) -> None:
        """Warns when the last worker leaves and when one returns; gives up where none does."""
        if self._client.status != "running":
            raise SlidesrError(f"the scheduler {self._address} is gone. {_GO_ON}")
        now_s = time.monotonic()
        if self._client.nthreads():
            if self._alone_since_s is not None:
                _log.warning("%s: workers are back", self._address)
            self._alone_since_s = None
        elif self._alone_since_s is None:
            _log.warning("%s: no worker is left: waiting for one", self._address)
            self._alone_since_s = now_s
        elif now_s - self._alone_since_s > self._most_alone_s:
            raise SlidesrError(
                f"{self._address}: all workers died, and none came back. Too little memory is"
                f" common. {_GO_ON}"
            )

    def _try_elsewhere(self, ticket: _Ticket) -> None:
        """Lets another worker run a task whose worker seems to hang; the bytes are the same."""
        key = ticket.futures[0].key
        holders = {*self._client.who_has(ticket.futures).get(key, ())}
        holders |= {w for w, keys in self._client.processing().items() if key in keys}
        others = [worker for worker in self._client.nthreads() if worker not in holders]
        if others and holders:
            _log.warning(
                "%s: %s does not answer; tried once more elsewhere",
                *(block_text(ticket.blocks), ", ".join(holders)),
            )
            self._submit(ticket, others)

    @property
    def _address(self) -> str:
        return str(getattr(self._client.scheduler, "address", "of dask"))


def _killed(blocks: Blocks, error: KilledWorker) -> str:
    return (
        f"{block_text(blocks)}: all {error.allowed_failures + 1} workers that had it died, the last"
        f" was {error.last_worker.address}. See their logs; too little memory is common. {_GO_ON}"
    )


def _last(error: Exception, blocks: Blocks) -> SlidesrError:
    if isinstance(error, SlidesrError):
        return error
    return SlidesrError(f"{block_text(blocks)}: {type(error).__name__}: {error}. Is slidesr there?")
