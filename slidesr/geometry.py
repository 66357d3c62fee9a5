"""Whole pixels: sizes and half-open boxes; x to the right, y down, origin at the top left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""An RGB image, u8[h, w, 3] in 0..255 unless stated otherwise."""


@dataclass(frozen=True)
class Size:
    """A width and a height in pixels; both positive."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size {self.width} x {self.height} px is not positive")

    def __mul__(self, scale: int) -> Size:
        return Size(self.width * scale, self.height * scale)

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def box(self) -> Box:
        """All pixels of an image of this size."""
        return Box(0, 0, self.width, self.height)

    def halved(self) -> Size:
        """The size of the next pyramid level; odd sides round up.

        >>> Size(5, 8).halved()
        Size(width=3, height=4)
        """
        return Size((self.width + 1) // 2, (self.height + 1) // 2)


@dataclass(frozen=True)
class Box:
    """The pixels x <= column < x + width, y <= row < y + height. May lie outside an image.

    Printed as `x,y,width,height`.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 0 or self.height < 0:
            raise ValueError(f"box {self} has a negative side")

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    def __mul__(self, scale: int) -> Box:
        return Box(self.x * scale, self.y * scale, self.width * scale, self.height * scale)

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the box in an array whose first element is pixel (0, 0)."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    def grown(self, margin: int) -> Box:
        """The box with `margin` more pixels on each side."""
        return Box(
            self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def moved(self, dx: int, dy: int) -> Box:
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def within(self, frame: Box) -> Box:
        """This box in the coordinates of `frame`, whose own origin becomes (0, 0)."""
        return self.moved(-frame.x, -frame.y)

    def clipped(self, other: Box) -> Box:
        """The intersection of both boxes; empty where they do not overlap."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(x, y, max(0, right - x), max(0, bottom - y))

    def contains(self, other: Box) -> bool:
        return self.clipped(other) == other

    def snapped(self, cell: int) -> Box:
        """The smallest box of whole cells of the grid of `cell` px that contains this one.

        >>> Box(3, 8, 2, 9).snapped(4)
        Box(x=0, y=8, width=8, height=12)
        """
        x, y = self.x // cell * cell, self.y // cell * cell
        return Box(x, y, -(-self.right // cell) * cell - x, -(-self.bottom // cell) * cell - y)

    def cells(self, cell: int) -> Iterator[Box]:
        """The whole cells of the grid of `cell` px that this box touches, by rows."""
        cover = self.snapped(cell)
        for y in range(cover.y, cover.bottom, cell):
            for x in range(cover.x, cover.right, cell):
                yield Box(x, y, cell, cell)

    def cut(self, limit: int, grid: int = 1) -> tuple[Box, ...]:
        """Nearly equal parts by rows, in whole cells of `grid` px, at most `limit + grid` px wide.

        >>> [(part.x, part.width) for part in Box(0, 0, 544, 32).cut(256, 32)]
        [(0, 288), (288, 256)]
        """
        return tuple(
            Box(x, y, width, height)
            for y, height in _cut(self.y, self.height, limit, grid)
            for x, width in _cut(self.x, self.width, limit, grid)
        )


def _cut(start: int, length: int, limit: int, grid: int) -> Iterator[tuple[int, int]]:
    """Start and length of each part."""
    cells = length // grid
    count = max(1, -(-(length - grid) // limit))
    for part in range(count):
        first, last = -(-cells * part // count), -(-cells * (part + 1) // count)
        yield start + first * grid, (last - first) * grid


@dataclass(frozen=True)
class Mpp:
    """The size of a pixel in micrometres, across and down; both positive and finite."""

    x: float
    y: float

    def __post_init__(self) -> None:
        if not (0 < self.x < float("inf") and 0 < self.y < float("inf")):
            raise ValueError(f"pixel size {self.x} x {self.y} um is not positive and finite")

    def __mul__(self, factor: float) -> Mpp:
        return Mpp(self.x * factor, self.y * factor)

    def __str__(self) -> str:
        return f"{self.x:.4g}" if self.x == self.y else f"{self.x:.4g} x {self.y:.4g}"

    @property
    def mean(self) -> float:
        """The geometric mean of both sides."""
        return float((self.x * self.y) ** 0.5)
