"""What a worker does: it opens the slide and the model once, and makes blocks.

At most two recipes are open in a process, so that slides can follow one another; the one that was
used longest ago is closed.
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
from slidesr.pipeline.job import open_model
from slidesr.pipeline.job_spec import JobSpec
from slidesr.pipeline.options import Options
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.run import BlockResult
from slidesr.pipeline.tile_size import remember
from slidesr.tiling import Block

_MOST_OPEN = 2

Blocks = tuple[Block, ...]
WorkerJob = bytes
"""A recipe and an encoder, packed: a few kilobytes, most of them the tissue mask."""


def packed(recipe: JobSpec, encode: BlockEncoder) -> WorkerJob:
    """What goes along with every block."""
    return zlib.compress(pickle.dumps((recipe, encode)))


def choose_engine(options: Options) -> Engine:
    """What the model runs on here."""
    return Engine.choose(options.device, options.precision, options.batch_size)


def make_blocks(order: WorkerJob, blocks: Blocks) -> tuple[list[BlockResult], dict[str, float]]:
    """Reads, upscales and encodes blocks; also the busy seconds by stage.

    Raises SlidesrError alone, in one line that tells the block and the worker.
    """
    watch, made = Stopwatch(), list[BlockResult]()
    try:
        with _bench(order) as bench:
            for block in blocks:
                made.append(bench.make(block, watch))
    except Exception as error:
        why, _ = explained(error)
        address = get_worker().address
        where = told(blocks[len(made) : len(made) + 1])
        raise SlidesrError(f"{where} on worker {address}: {why}") from None
    return made, watch.seconds


def told(blocks: Blocks) -> str:
    """Which blocks these are, for a message."""
    first, at = blocks[0], blocks[0].source
    more = f" and the {len(blocks) - 1} after it" if len(blocks) > 1 else ""
    return f"block {first.index}{more} (source {at.x},{at.y},{at.width},{at.height})"


class _Bench:
    """An open recipe. Tasks of several threads share it; the network takes one at a time."""

    def __init__(self, order: WorkerJob) -> None:
        self.users = 0
        self._network = threading.Lock()
        recipe, self._encode = pickle.loads(zlib.decompress(order))  # noqa: S301 - our driver's
        self._job = recipe.opened(_model(recipe.options))
        self._painter = self._job.painter

    def close(self) -> None:
        remember(self._job.model.machine, self._job.tuner.rates)
        self._job.slide.close()

    def make(self, block: Block, watch: Stopwatch) -> BlockResult:
        with watch("read"):
            raw = self._painter.read(block)
        with self._network, watch("network"):
            painted = self._painter.paint(raw)
        with watch("encode"):
            encoded = self._encode(painted)
        return BlockResult(encoded, self._job.slide.filled_tiles)


_lock = threading.Lock()
_benches: OrderedDict[WorkerJob, _Bench] = OrderedDict()
_models: OrderedDict[Options, Model] = OrderedDict()


@contextmanager
def _bench(order: WorkerJob) -> Iterator[_Bench]:
    """The recipe, opened by the first that asks; the others wait for it."""
    with _lock:
        bench = _benches.get(order) or _benches.setdefault(order, _Bench(order))
        _benches.move_to_end(order)
        bench.users += 1
    try:
        yield bench
    finally:
        with _lock:
            bench.users -= 1
            _close_idle()


def _close_idle() -> None:
    idle = [order for order, bench in _benches.items() if not bench.users]
    for order in idle[: max(0, len(_benches) - _MOST_OPEN)]:
        _benches.pop(order).close()


def _model(options: Options) -> Model:
    """The model, once for all slides that want the same."""
    use_threads(get_worker().state.nthreads)
    only = Options(
        scale=options.scale,
        model=options.model,
        perception=options.perception,
        tolerance=options.tolerance,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
    )
    if only not in _models:
        _models.clear()  # one at a time: a GPU may hold no second one
        _models[only] = open_model(only)
    return _models[only]
