"""How a region is divided into blocks and tiles. Pure arithmetic, no pixels.

There are two frames: source pixels are those of the slide at the resolution that is read; output
pixels have their origin at the origin of the region that is upscaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, lcm, log2, sqrt

from slidesr.geometry import Box, Size

CELL_PX = 32
"""Side, in source pixels, of the cells that are tissue or background, on a slide-absolute grid."""


@dataclass(frozen=True)
class Block:
    """The unit of memory, progress and retry.

    `write` is the block in output pixels, `source` the same area in source pixels. `tiles` are the
    network's inputs: source boxes on its window grid that together just cover `source`.
    """

    index: int
    write: Box
    source: Box
    tiles: tuple[Box, ...]

    @property
    def cover(self) -> Box:
        """The tiles together, in source pixels."""
        first, last = self.tiles[0], self.tiles[-1]
        return Box(first.x, first.y, last.right - first.x, last.bottom - first.y)


@dataclass(frozen=True)
class TilePlan:
    """The blocks, tiles and pyramid levels of one output.

    `region` and `tile_px` are in source pixels; `output_tile_px` is the side of the output's
    encoded tiles. A block is `output_tile_px * 2**block_doublings` output pixels wide and high, so
    it consists of whole encoded tiles on its lowest `block_doublings + 1` pyramid levels.
    """

    region: Box
    scale: int
    window_px: int
    tile_px: int = 256
    output_tile_px: int = 512
    block_doublings: int = 2

    def __post_init__(self) -> None:
        if self.tile_px % self.grid_px:
            raise ValueError(
                f"tile {self.tile_px} px is not a multiple of the grid of {self.grid_px} px"
            )
        for part in (16, self.scale):
            if self.output_tile_px % part:
                raise ValueError(
                    f"output tile {self.output_tile_px} px is not a multiple of {part}"
                )

    @classmethod
    def near(
        cls, tile_px: int, region: Box, scale: int, window_px: int, *, tiles: int = 1
    ) -> TilePlan:
        """A plan with tiles as near to `tile_px` as the grid allows and at least `tiles` per block.

        >>> TilePlan.near(256, Box(0, 0, 9000, 9000), scale=4, window_px=32, tiles=16).block_px
        4096
        """
        grid_px = lcm(window_px, CELL_PX)
        tile_px = max(1, round(tile_px / grid_px)) * grid_px
        doublings = ceil(log2(tile_px * scale * sqrt(tiles) / cls.output_tile_px))
        return cls(region, scale, window_px, tile_px, block_doublings=max(0, doublings))

    @property
    def grid_px(self) -> int:
        """Tiles start on multiples of this many source pixels: whole windows and whole cells."""
        return lcm(self.window_px, CELL_PX)

    @property
    def output(self) -> Size:
        return self.region.size * self.scale

    @property
    def levels(self) -> tuple[Size, ...]:
        """The sizes of the output's pyramid, halved until a level fits into one encoded tile."""
        sizes = [self.output]
        while max(sizes[-1].width, sizes[-1].height) > self.output_tile_px:
            sizes.append(sizes[-1].halved())
        return tuple(sizes)

    @property
    def block_levels(self) -> int:
        """How many of the lowest pyramid levels a block completes on its own."""
        return min(self.block_doublings + 1, len(self.levels))

    @property
    def block_px(self) -> int:
        """The side of a block in output pixels."""
        return int(self.output_tile_px << self.block_doublings)

    @property
    def block_count(self) -> int:
        columns, rows = self._grid
        return columns * rows

    def blocks(self) -> Iterator[Block]:
        """All blocks in Z-order; they cover every output pixel once.

        The four children of a pyramid tile come close together along the Z curve, so the upper
        levels need only a few tiles in memory, however large the slide.
        """
        columns, rows = self._grid
        for index, (column, row) in enumerate(_z_order(columns, rows)):
            cell = Box(column, row, 1, 1) * self.block_px
            yield self._block(index, cell.clipped(self.output.box))

    @property
    def _grid(self) -> tuple[int, int]:
        return -(-self.output.width // self.block_px), -(-self.output.height // self.block_px)

    def _block(self, index: int, write: Box) -> Block:
        source = self.source_from_output(write)
        tiles = source.snapped(self.grid_px).cut(self.tile_px, self.grid_px)
        return Block(index, write, source, tiles)

    def source_from_output(self, box: Box) -> Box:
        """A box of output pixels in source pixels; its sides must be multiples of the scale."""
        scale = self.scale
        shrunk = Box(box.x // scale, box.y // scale, box.width // scale, box.height // scale)
        if shrunk * scale != box:
            raise ValueError(f"{box} is not a whole number of source pixels at x{scale}")
        return shrunk.moved(self.region.x, self.region.y)


def _z_order(columns: int, rows: int) -> Iterator[tuple[int, int]]:
    """(column, row) of every cell of a grid along the Z curve (Morton 1966).

    >>> list(_z_order(3, 2))
    [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    """
    side = 1 << (max(columns, rows) - 1).bit_length()
    stack = [(0, 0, side)]
    while stack:
        column, row, side = stack.pop()
        if column >= columns or row >= rows:
            continue
        if side == 1:
            yield column, row
            continue
        half = side // 2
        quarters = [(column + dx, row + dy, half) for dy in (0, half) for dx in (0, half)]
        stack.extend(reversed(quarters))
