"""An ordered, bounded map over threads; stages of a pipeline are such maps behind one another."""

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
    """Yields `work(item)` in the order of `items`, made by threads up to `ahead` items early.

    At most `ahead` results are held. `prompt` is for items that take long to come: a result that is
    there is not held while the next item is made, and the first is waited for.

    The first error of `work` is raised in its place, one of `items` at once; what had not begun by
    then never begins. Closeable the iterator early waits for what runs, and closes `items` too.
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
