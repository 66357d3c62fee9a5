"""A cluster of dask workers, found by its address or started here, that runs jobs."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from math import inf
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

from slidesr.errors import RefusedError, printable
from slidesr.model.device import Engine
from slidesr.output.writer import BlockEncoder
from slidesr.pipeline.dask_cluster.task_queue import TaskQueue
from slidesr.pipeline.dask_cluster.worker import Blocks, WorkerJob, choose_engine, packed
from slidesr.pipeline.job import Job
from slidesr.pipeline.job_spec import JobSpec
from slidesr.pipeline.options import Options
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.run import BlockResult
from slidesr.tiling import Block

_START_S = 60  # for a cluster to show its first worker
_ANSWER_S = 20  # for a scheduler to answer
_LOOK_S = 2.0  # between two looks at the number of workers
_AHEAD = 4  # tasks per worker thread, running or waiting to be fetched
_MOST_GLASS, _MOST_TISSUE = 16, 4  # blocks of a task
_TRIES = 3
_TALKERS = ("distributed", "tornado", "bokeh", "asyncio")

# glibc gives every thread but the first an arena of at most 64 MB, so the network's maps would get
# fresh pages each time: see `device.keep_freed_memory`.
_BEFORE_START = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


class Cluster:
    """Workers that several jobs may share, each from a thread of its own.

    At most 4 tasks per worker thread are in flight, shared equally between the jobs. A task is one
    block with tissue, up to 4 where there are many for each thread, or up to 16 blocks of glass,
    which cost next to nothing. The driver holds the result of one task; the others wait on the
    workers that computed them.
    """

    def __init__(self, client: Client, *, most_alone_s: float = inf) -> None:
        """A job gives up after `most_alone_s` without any worker."""
        self.client, self._most_alone_s = client, most_alone_s
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._jobs, self._threads, self._looked_s = 0, 1, -_LOOK_S

    @property
    def dashboard(self) -> str | None:
        """URL of dask's dashboard; the scheduler needs bokeh for it."""
        link: str | None = self.client.dashboard_link
        return link

    @property
    def threads(self) -> int:
        """Threads of all workers now, or when some were last there."""
        with self._lock:
            if time.monotonic() - self._looked_s >= _LOOK_S:
                count = sum(self.client.nthreads().values())
                self._threads, self._looked_s = count or self._threads, time.monotonic()
            return self._threads

    def engine(self, options: Options) -> Engine:
        """The device and precision that a worker would use."""
        task = self.client.submit(choose_engine, options, pure=False)
        engine: Engine = task.result()
        return engine

    def make(
        self, job: Job, encode: BlockEncoder, todo: Iterator[Block], watch: Stopwatch
    ) -> Generator[BlockResult, None, None]:
        """An `Executor`: blocks go out in the plan's order and come back in that order."""
        packed_job = packed(JobSpec.of(job), encode)
        with self._sharing(), closing(self._queue(packed_job)) as queue:
            together = job.plan.block_count // (_MOST_TISSUE * self._room())
            is_tissue = partial(_is_tissue, job)
            for blocks in grouped(todo, is_tissue, max(1, min(_MOST_TISSUE, together))):
                queue.put(blocks)
                while len(queue) >= self._room():
                    yield from queue.take(watch)
            while len(queue):
                yield from queue.take(watch)

    def _queue(self, packed_job: WorkerJob) -> TaskQueue:
        return TaskQueue(self.client, packed_job, self._stopped, most_alone_s=self._most_alone_s)

    def stop(self) -> None:
        """Ends all jobs, in any thread: each raises StoppedError within seconds."""
        self._stopped.set()

    def _room(self) -> int:
        """Tasks that one job may have in flight."""
        return max(2, _AHEAD * self.threads // max(1, self._jobs))

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        with self._lock:
            self._jobs += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs -= 1


def grouped(
    blocks: Iterable[Block], is_tissue: Callable[[Block], bool], most_tissue: int
) -> Iterator[Blocks]:
    """Groups consecutive blocks with tissue, and consecutive blocks without; keeps the order."""
    row: list[Block] = []
    was_tissue = False
    for block in blocks:
        tissue = is_tissue(block)
        if row and tissue != was_tissue:
            yield tuple(row)
            row = []
        row.append(block)
        was_tissue = tissue
        if len(row) == (most_tissue if tissue else _MOST_GLASS):
            yield tuple(row)
            row = []
    if row:
        yield tuple(row)


def _is_tissue(job: Job, block: Block) -> bool:
    return bool(job.upscaler.tissue_cells(block).any())


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """The cluster at a dask address, or N workers here for `local:N`, with at least one worker.

    Raises RefusedError where nothing answers or no worker appears within a minute.
    """
    kind, _, count = address.partition(":")
    if kind != "local":
        with _quiet(), _client(address) as cluster:
            yield cluster
        return
    if not count.isdecimal() or not int(count):
        raise RefusedError(f"--dask {address}: say how many workers, for example local:2")
    with _started([{}] * int(count), nthreads=1) as cluster:
        yield cluster


@contextmanager
def of_devices(devices: Sequence[str], *, nthreads: int) -> Iterator[Cluster]:
    """One local process for each device, such as cuda:0, which sees no other device."""
    with _started([_seeing(device) for device in devices], nthreads=nthreads) as cluster:
        yield cluster


@contextmanager
def _started(environments: list[dict[str, str]], *, nthreads: int) -> Iterator[Cluster]:
    environ = "distributed.nanny.pre-spawn-environ"
    before = {**_BEFORE_START, "DASK_LOGGING__DISTRIBUTED": "critical"}
    workers = {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": nthreads,
                "env": environment,
                "host": "127.0.0.1",
                "memory_limit": 0,  # a worker holds a few blocks, however large the slide
                "silence_logs": logging.CRITICAL,
            },
        }
        for number, environment in enumerate(environments)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}
    options |= {"allowed_failures": _TRIES - 1}
    with (
        _quiet(),
        dask.config.set({environ: before}),
        SpecCluster(
            workers,
            {"cls": Scheduler, "options": options},
            silence_logs=logging.CRITICAL,
        ) as cluster,
        _client(cluster) as connection,
    ):
        yield connection


@contextmanager
def _client(where: Any) -> Iterator[Cluster]:
    name = where if isinstance(where, str) else "local"
    if isinstance(where, str):
        _check_answers(where)
    client = Client(where, timeout=_ANSWER_S, set_as_default=False)
    with client:
        try:
            client.wait_for_workers(1, timeout=_START_S)
        except TimeoutError as error:
            raise RefusedError(
                f"--dask {name}: no worker appeared within {_START_S} s. Start some with"
                f" `dask worker {name}`."
            ) from error
        # dask never restarts a worker that dies while its nanny starts it.
        yield Cluster(client, most_alone_s=inf if isinstance(where, str) else _START_S)


def _check_answers(address: str) -> None:
    """Raises RefusedError where no scheduler answers; a failed `Client` leaves threads behind."""
    try:  # not public: without it, `Client` itself waits for the scheduler
        from distributed.comm.core import connect
    except ImportError:
        return

    async def attempt() -> None:
        how = Security().get_connection_args("client")
        comm = await connect(address, timeout=_ANSWER_S, **how)
        await comm.close()

    try:
        asyncio.run(attempt())
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RefusedError(
            f"--dask {address}: no scheduler answers ({printable(str(error))}). Start one with"
            " `dask scheduler`, and give the address that it prints."
        ) from error


def _seeing(device: str) -> dict[str, str]:
    """The environment of a process that sees one GPU alone."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[int(number)] if visible else number}


@contextmanager
def _quiet() -> Iterator[None]:
    """Sends dask's log records to the root logger, and none to the terminal."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _TALKERS:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
