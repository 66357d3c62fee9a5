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
from slidesr.model import Engine, Model, use_threads
from slidesr.output.sink import Encoder
from slidesr.plan import Block
from slidesr.upscale import Made, Options, Recipe, open_model
from slidesr.upscale.profile import Stopwatch

_MOST_OPEN = 2

Order = bytes
"""A recipe and an encoder, packed: a few kilobytes, most of them the tissue mask."""


def packed(recipe: Recipe, encode: Encoder) -> Order:
    """What goes along with every block."""
    return zlib.compress(pickle.dumps((recipe, encode)))


def choose_engine(options: Options) -> Engine:
    """What the model runs on here."""
    return Engine.choose(options.device, options.precision, options.batch_size)


def make_block(order: Order, block: Block) -> tuple[Made, dict[str, float]]:
    """Reads, upscales and encodes a block; also the busy seconds by stage.

    Raises SlidesrError alone, in one line that tells the block and the worker.
    """
    try:
        with _bench(order) as bench:
            return bench.make(block)
    except Exception as error:
        why, _ = explained(error)
        at = block.source
        raise SlidesrError(
            f"block {block.index} (source {at.x},{at.y},{at.width},{at.height})"
            f" on worker {get_worker().address}: {why}"
        ) from None


class _Bench:
    """An open recipe. Tasks of several threads share it; the network takes one at a time."""

    def __init__(self, order: Order) -> None:
        self.users = 0
        self._network = threading.Lock()
        recipe, self._encode = pickle.loads(zlib.decompress(order))  # noqa: S301 - our driver's
        self._job = recipe.opened(_model(recipe.options))
        self._painter = self._job.painter
        self.close = self._job.slide.close

    def make(self, block: Block) -> tuple[Made, dict[str, float]]:
        watch = Stopwatch()
        with watch("read"):
            raw = self._painter.read(block)
        with self._network, watch("network"):
            painted = self._painter.paint(raw)
        with watch("encode"):
            encoded = self._encode(painted)
        return Made(encoded, self._job.slide.filled_tiles), watch.seconds


_lock = threading.Lock()
_benches: OrderedDict[Order, _Bench] = OrderedDict()
_models: OrderedDict[Options, Model] = OrderedDict()


@contextmanager
def _bench(order: Order) -> Iterator[_Bench]:
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
