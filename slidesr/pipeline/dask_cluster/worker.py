"""The code that runs on a worker: it opens slide and model once, and upscales blocks.

A process keeps at most two jobs open, so that one slide can follow another; the least recently used
one is closed.
"""

from __future__ import annotations

import pickle
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import get_worker

from slidesr.errors import SlidesrError, explained
from slidesr.model.device import Engine, use_threads
from slidesr.model.model import Model
from slidesr.output.writer import BlockEncoder
from slidesr.pipeline.job_spec import JobSpec
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import engine_for, open_model
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.run import BlockResult
from slidesr.pipeline.tile_size import remember
from slidesr.tiling import Block

_MOST_OPEN = 2

Blocks = tuple[Block, ...]
WorkerJob = bytes
"""A job's specification and encoder, pickled: a few kilobytes, mostly the tissue mask."""


def packed(spec: JobSpec, encode: BlockEncoder) -> WorkerJob:
    """Packs what a worker needs to upscale any block of a job."""
    return zlib.compress(pickle.dumps((spec, encode)))


def choose_engine(options: Options) -> Engine:
    """The device and precision of this worker."""
    return engine_for(options)


def upscale_blocks(
    packed_job: WorkerJob, blocks: Blocks
) -> tuple[list[BlockResult], dict[str, float]]:
    """Reads, upscales and encodes blocks; also returns the busy seconds by stage.

    Raises only SlidesrError, in one line that names the block and the worker.
    """
    watch, results = Stopwatch(), list[BlockResult]()
    try:
        with _opened(packed_job) as open_job:
            for block in blocks:
                results.append(open_job.upscale(block, watch))
    except Exception as error:
        why, _ = explained(error)
        address = get_worker().address
        where = block_text(blocks[len(results) : len(results) + 1])
        raise SlidesrError(f"{where} on worker {address}: {why}") from None
    return results, watch.seconds


def block_text(blocks: Blocks) -> str:
    """Names blocks in a message."""
    first = blocks[0]
    more = f" and the {len(blocks) - 1} after it" if len(blocks) > 1 else ""
    return f"block {first.index}{more} (source {first.source})"


class _OpenJob:
    """A job that is open here. Threads share it; the network serves one at a time."""

    def __init__(self, packed_job: WorkerJob) -> None:
        self.users = 0
        self._network = threading.Lock()
        spec, self._encode = pickle.loads(zlib.decompress(packed_job))  # noqa: S301 - our driver's
        self._job = spec.opened(_model(spec.options))
        self._upscaler = self._job.upscaler

    def close(self) -> None:
        remember(self._job.model.machine, self._job.tuner.rates)
        self._job.slide.close()

    def upscale(self, block: Block, watch: Stopwatch) -> BlockResult:
        with watch("read"):
            raw = self._upscaler.read(block)
        with self._network, watch("network"):
            upscaled = self._upscaler.upscale(raw)
        with watch("encode"):
            encoded = self._encode(upscaled)
        return BlockResult(encoded, self._job.slide.filled_tiles)


_lock = threading.Lock()
_open_jobs: OrderedDict[WorkerJob, _OpenJob] = OrderedDict()
_models: OrderedDict[Options, Model] = OrderedDict()


@contextmanager
def _opened(packed_job: WorkerJob) -> Iterator[_OpenJob]:
    """The open job; the first caller opens it, and the others wait for that."""
    with _lock:
        open_job = _open_jobs.get(packed_job) or _open_jobs.setdefault(
            packed_job, _OpenJob(packed_job)
        )
        _open_jobs.move_to_end(packed_job)
        open_job.users += 1
    try:
        yield open_job
    finally:
        with _lock:
            open_job.users -= 1
            _close_idle()


def _close_idle() -> None:
    idle = [packed_job for packed_job, open_job in _open_jobs.items() if not open_job.users]
    for packed_job in idle[: max(0, len(_open_jobs) - _MOST_OPEN)]:
        _open_jobs.pop(packed_job).close()


def _model(options: Options) -> Model:
    """The model, loaded once for all slides that use it."""
    use_threads(get_worker().state.nthreads)
    only = Options(
        scale=options.scale,
        model=options.model,
        perception=options.perception,
        ensemble=options.ensemble,
        tolerance=options.tolerance,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
    )
    if only not in _models:
        _models.clear()  # one at a time: a GPU may hold no second one
        _models[only] = open_model(only)
    return _models[only]
