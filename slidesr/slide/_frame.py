"""A slide at one resolution: a stored level, or one resampled from a finer level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.slide.sources.source import About, Source

CELL_PX = 512
_CACHED_CELLS = 64
_KERNEL_RADIUS_PX = 2  # of Pillow's bicubic kernel, in pixels of the smaller image
_MAX_CELL_SOURCE_PX = 4096


@dataclass(frozen=True)
class Frame:
    """A slide at one resolution: the pixels that are upscaled.

    `mpp` and `magnification` are the frame's own; `downsample` is level-0 pixels per frame pixel;
    `level` is the level it is read from.
    """

    size: Size
    mpp: Mpp | None
    magnification: float | None
    downsample: float
    level: int
    _read_inside: Callable[[Box], Pixels]

    def read(self, box: Box) -> Pixels:
        """The pixels of any box, u8[h, w, 3]; outside the slide they are mirrored.

        A pixel depends on its position alone, not on the box. Thread-safe.
        """
        return read_mirrored(self._read_inside, self.size, box)

    def box_from_level0(self, box0: Box) -> Box:
        """The frame pixels that a level-0 box touches, clipped to the frame."""
        x, y = math.floor(box0.x / self.downsample), math.floor(box0.y / self.downsample)
        right = math.ceil(box0.right / self.downsample)
        bottom = math.ceil(box0.bottom / self.downsample)
        return Box(x, y, right - x, bottom - y).clipped(self.size.box)


def level_frame(source: Source, about: About, level: int) -> Frame:
    """The frame of a stored level."""
    chosen = about.levels[level]
    read = partial(source.read, level)
    return _frame(about, level, chosen.size, chosen.downsample, read)


def resampled_frame(source: Source, about: About, level: int, downsample: float) -> Frame:
    """A frame at any downsample, resampled (antialiased bicubic) from a finer level."""
    chosen = about.levels[level]
    ratio = downsample / chosen.downsample
    size = Size(_shrunk(chosen.size.width, ratio), _shrunk(chosen.size.height, ratio))

    def resample(cell: Box) -> Pixels:
        return _resampled(partial(source.read, level), chosen.size, cell, ratio)

    # A cell's source stays within 4096 px, so that memory does not grow with the ratio.
    cell_px = max(1, min(CELL_PX, int(_MAX_CELL_SOURCE_PX / ratio)))
    grid = CellGrid(size, resample, cell_px=cell_px)
    return _frame(about, level, size, downsample, grid.read)


class CellGrid:
    """An image computed in whole cells of a fixed grid, whichever box is read. Thread-safe.

    Caches the last 64 cells: 50 MB with cells of 512 px.
    """

    def __init__(self, size: Size, compute: Callable[[Box], Pixels], *, cell_px: int) -> None:
        self._size, self._cell_px = size, cell_px
        self._compute = lru_cache(_CACHED_CELLS)(compute)

    def read(self, box: Box) -> Pixels:
        """The pixels of a box inside the image."""
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        for whole in box.cells(self._cell_px):
            cell = whole.clipped(self._size.box)
            shared = cell.clipped(box)
            pixels[shared.within(box).slices] = self._compute(cell)[shared.within(cell).slices]
        return pixels


def read_mirrored(read: Callable[[Box], Pixels], size: Size, box: Box) -> Pixels:
    """The pixels of any box, mirrored outside the image with the border pixel repeated.

    The same as `numpy.pad` with "symmetric", at any distance:

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


def _frame(
    about: About, level: int, size: Size, downsample: float, read: Callable[[Box], Pixels]
) -> Frame:
    mpp = about.mpp * downsample if about.mpp else None
    magnification = about.magnification / downsample if about.magnification else None
    return Frame(size, mpp, magnification, downsample, level, read)


def _shrunk(length: int, ratio: float) -> int:
    """Whole pixels, with a tolerance, since a ratio like 0.5 / 0.1 is never exact."""
    return max(1, int(length / ratio + 1e-6))


def _resampled(read: Callable[[Box], Pixels], source_size: Size, cell: Box, ratio: float) -> Pixels:
    """One cell of the frame, from its part of the level and the kernel's support around it."""
    right = min(cell.right * ratio, source_size.width)
    bottom = min(cell.bottom * ratio, source_size.height)
    x, y = math.floor(cell.x * ratio), math.floor(cell.y * ratio)
    exact = Box(x, y, math.ceil(right) - x, math.ceil(bottom) - y)
    seen = exact.grown(math.ceil(_KERNEL_RADIUS_PX * ratio)).clipped(source_size.box)
    part = (cell.x * ratio - seen.x, cell.y * ratio - seen.y, right - seen.x, bottom - seen.y)
    image = Image.fromarray(read(seen))
    return np.array(image.resize((cell.width, cell.height), Image.Resampling.BICUBIC, box=part))


def _mirrored(start: int, stop: int, length: int) -> NDArray[np.int64]:
    index = np.arange(start, stop) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
