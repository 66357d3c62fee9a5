"""An ordered, bounded map over threads; chained, such maps are the stages of a pipeline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ordered_map(
    work: Callable[[_In], _Out],
    items: Iterable[_In],
    *,
    workers: int,
    ahead: int,
    prompt: bool = False,
) -> Generator[_Out, None, None]:
    """Yields `work(item)` in the order of `items`, computed by threads up to `ahead` items early.

    At most `ahead` results are held. `prompt` is for items that arrive slowly: a finished result is
    yielded before the next item is requested, and the first result is waited for.

    The first error of `work` is raised in its turn, an error of `items` at once; work that has not
    started by then is cancelled. Closing the iterator waits for running work and closes `items`.
    """
    running: deque[Future[_Out]] = deque()
    source = iter(items)
    limit = 1 if prompt else ahead
    pool = ThreadPoolExecutor(workers)
    try:
        for item in source:
            running.append(pool.submit(work, item))
            while running and (len(running) >= limit or (prompt and running[0].done())):
                yield running.popleft().result()
                limit = ahead
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(source, "close", None)
        if close is not None:
            close()
