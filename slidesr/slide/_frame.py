"""A slide seen at one resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.slide._source import About, Source

_KERNEL_RADIUS_PX = 2  # of Pillow's bicubic kernel, in pixels of the smaller image
_MAX_CELL_SOURCE_PX = 4096


@dataclass(frozen=True)
class Frame:
    """The pixels that get upscaled: a level of the slide, or what is made from one.

    `mpp` and `magnification` are the frame's own; `downsample` is level-0 pixels per frame pixel;
    `level` is the one it is read from.
    """

    size: Size
    mpp: Mpp | None
    magnification: float | None
    downsample: float
    level: int
    _read_inside: Callable[[Box], Pixels]

    def read(self, box: Box) -> Pixels:
        """The pixels of any box: u8[h, w, 3]; outside the slide they are its mirror.

        A pixel depends on its position alone, not on the box. Thread-safe.
        """
        return read_mirrored(self._read_inside, self.size, box)

    def box_from_level0(self, box0: Box) -> Box:
        """The frame's pixels that a box of level 0 touches; nothing outside the frame."""
        x, y = math.floor(box0.x / self.downsample), math.floor(box0.y / self.downsample)
        right = math.ceil(box0.right / self.downsample)
        bottom = math.ceil(box0.bottom / self.downsample)
        return Box(x, y, right - x, bottom - y).clipped(self.size.box)


def level_frame(source: Source, about: About, level: int) -> Frame:
    """A level as it is."""
    chosen = about.levels[level]
    read = partial(source.read, level)
    return _frame(about, level, chosen.size, chosen.downsample, read)


def resampled_frame(source: Source, about: About, level: int, downsample: float) -> Frame:
    """The slide at any downsample, made from a finer level by antialiased bicubic resampling."""
    chosen = about.levels[level]
    ratio = downsample / chosen.downsample
    size = Size(_shrunk(chosen.size.width, ratio), _shrunk(chosen.size.height, ratio))

    def make(cell: Box) -> Pixels:
        return _resampled(partial(source.read, level), chosen.size, cell, ratio)

    # A cell's source stays within 4096 px, so that memory does not grow with the ratio.
    cell_px = max(1, min(CELL_PX, int(_MAX_CELL_SOURCE_PX / ratio)))
    grid = CellGrid(size, make, cell_px=cell_px)
    return _frame(about, level, size, downsample, grid.read)


def _frame(
    about: About, level: int, size: Size, downsample: float, read: Callable[[Box], Pixels]
) -> Frame:
    mpp = about.mpp * downsample if about.mpp else None
    magnification = about.magnification / downsample if about.magnification else None
    return Frame(size, mpp, magnification, downsample, level, read)


def _shrunk(length: int, ratio: float) -> int:
    """Whole pixels only; a hair is forgiven, since a ratio like 0.5 / 0.1 is never exact."""
    return max(1, int(length / ratio + 1e-6))


def _resampled(read: Callable[[Box], Pixels], source_size: Size, cell: Box, ratio: float) -> Pixels:
    """One cell of the frame, from its part of the level and what the kernel sees around it."""
    right = min(cell.right * ratio, source_size.width)
    bottom = min(cell.bottom * ratio, source_size.height)
    x, y = math.floor(cell.x * ratio), math.floor(cell.y * ratio)
    exact = Box(x, y, math.ceil(right) - x, math.ceil(bottom) - y)
    seen = exact.grown(math.ceil(_KERNEL_RADIUS_PX * ratio)).clipped(source_size.box)
    part = (cell.x * ratio - seen.x, cell.y * ratio - seen.y, right - seen.x, bottom - seen.y)
    image = Image.fromarray(read(seen))
    return np.array(image.resize((cell.width, cell.height), Image.Resampling.BICUBIC, box=part))


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
