"""Pixels as a pure function of their position: mirrored at the border, made cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from slidesr.geometry import Box, Size
from slidesr.slide._source import Pixels

_CACHED_CELLS = 64
CELL_PX = 512


class CellGrid:
    """An image made in whole cells of a fixed grid, whichever box is asked for.

    Keeps the last 64 cells; with cells of 512 px that is 50 MB. Reads from several threads.
    """

    def __init__(self, size: Size, make: Callable[[Box], Pixels], *, cell_px: int) -> None:
        self._size, self._cell_px = size, cell_px
        self._make = lru_cache(_CACHED_CELLS)(make)

    def read(self, box: Box) -> Pixels:
        """The pixels of a box inside the image."""
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        for whole in box.cells(self._cell_px):
            cell = whole.clipped(self._size.box)
            shared = cell.clipped(box)
            pixels[shared.within(box).slices] = self._make(cell)[shared.within(cell).slices]
        return pixels


def read_mirrored(read: Callable[[Box], Pixels], size: Size, box: Box) -> Pixels:
    """The pixels of any box; outside the image they are its mirror, the border pixel doubled.

    The same as `numpy.pad` with "symmetric", as far out as asked:

        pixel   -3 -2 -1 | 0 1 2 ... n-1 | n   n+1
        shows    2  1  0 | 0 1 2 ... n-1 | n-1 n-2
    """
    if not box.area:
        return np.empty((box.height, box.width, 3), np.uint8)
    columns = _mirrored(box.x, box.right, size.width)
    rows = _mirrored(box.y, box.bottom, size.height)
    x, y = int(columns.min()), int(rows.min())
    seen = Box(x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
    pixels = read(seen)
    if seen == box:
        return pixels
    return pixels.take(rows - y, axis=0).take(columns - x, axis=1)


def _mirrored(start: int, stop: int, length: int) -> NDArray[np.int64]:
    index = np.arange(start, stop) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
