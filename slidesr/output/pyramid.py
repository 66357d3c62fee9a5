"""The pyramid: each level is the exact 2 x 2 mean of the uncompressed level below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from slidesr.geometry import Pixels
from slidesr.tiling import Block, TilePlan

_Colour = tuple[int, int, int]
_Stored = TypeVar("_Stored")


@dataclass(frozen=True)
class UpscaledBlock:
    """A block's pixels, u8[h, w, 3]; None if the whole block is plain glass.

    `glass` marks which of its level-0 tiles are plain glass: bool[rows, columns].
    """

    block: Block
    pixels: Pixels | None
    glass: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EncodedTile(Generic[_Stored]):
    """One stored tile of one level; `data` is None if it is plain glass."""

    level: int
    row: int
    column: int
    data: _Stored | None


@dataclass(frozen=True)
class EncodedBlock:
    """The encoded tiles of a block, and its pixels on the first level it only partly covers.

    `rest` is None if these pixels are plain glass, or if no such level exists.
    """

    block: Block
    tiles: tuple[EncodedTile[Any], ...]
    rest: Pixels | None


def halved(pixels: Pixels) -> Pixels:
    """The rounded mean of 2 x 2 pixels: u8[h, w, 3] -> u8[ceil(h/2), ceil(w/2), 3].

    An odd last row or column is averaged over the pixels that exist.
    """
    return np.asarray(Image.fromarray(pixels).reduce(2))


def levels_of(upscaled: UpscaledBlock, levels: int) -> Iterator[UpscaledBlock]:
    """The block on its lowest `levels` levels, each half of the one before."""
    yield upscaled
    for _ in range(levels - 1):
        pixels = None if upscaled.pixels is None else halved(upscaled.pixels)
        upscaled = UpscaledBlock(upscaled.block, pixels, _all_of_four(upscaled.glass))
        yield upscaled


def encode_block(
    upscaled: UpscaledBlock, plan: TilePlan, encode: Callable[[Pixels], bytes]
) -> EncodedBlock:
    """Encodes all tiles that lie wholly in the block, on its lowest levels."""
    block, side = upscaled.block, plan.output_tile_px
    tiles: list[EncodedTile[bytes]] = []
    *own, above = levels_of(upscaled, plan.block_levels + 1)
    for level, part in enumerate(own):
        row, column = (start // side >> level for start in (block.write.y, block.write.x))
        for (dy, dx), plain in np.ndenumerate(part.glass):
            data = None
            if not plain and part.pixels is not None:
                tile = part.pixels[dy * side : (dy + 1) * side, dx * side : (dx + 1) * side]
                data = encode(padded(tile, side))
            tiles.append(EncodedTile(level, row + dy, column + dx, data))
    rest = above.pixels if plan.block_levels < len(plan.levels) else None
    return EncodedBlock(block, tuple(tiles), rest)


def padded(pixels: Pixels, side: int) -> Pixels:
    """A border tile padded by its last row and column, which avoids JPEG ringing."""
    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return pixels
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")


def _all_of_four(glass: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Halves the grid: a tile is plain glass if all its children are."""
    rows, columns = glass.shape
    even = np.pad(glass, ((0, rows % 2), (0, columns % 2)), constant_values=True)
    return np.asarray(even.reshape((rows + 1) // 2, 2, -1, 2).all(axis=(1, 3)))


class UpperPyramid(Generic[_Stored]):
    """Builds the levels above the blocks from the blocks' `rest`, in the plan's order.

    Blocks come along a Z curve, so only a few tiles of each level are open at any time: memory
    grows with the number of levels, not with the slide.
    """

    def __init__(self, plan: TilePlan, encode: Callable[[Pixels], _Stored], glass: _Colour) -> None:
        self._plan, self._encode, self._glass = plan, encode, glass
        self._open: dict[tuple[int, int, int], _OpenTile] = {}

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The open tiles, for `restore`."""
        keys = [(*key, tile.missing) for key, tile in self._open.items()]
        pixels = {f"open{i}": tile.pixels for i, tile in enumerate(self._open.values())}
        existing = {name: each for name, each in pixels.items() if each is not None}
        return {"open": np.array(keys, np.int64).reshape(-1, 4), **existing}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restores the open tiles from `arrays`."""
        for i, (level, row, column, missing) in enumerate(arrays["open"].tolist()):
            tile = self._opened((level, row, column))
            tile.missing, tile.pixels = missing, arrays.get(f"open{i}")

    def add(self, encoded: EncodedBlock) -> Iterator[EncodedTile[_Stored]]:
        """Adds the rest of a block and yields the upper tiles that it completes."""
        plan, block = self._plan, encoded.block
        level = plan.block_levels
        if level < len(plan.levels):
            # A block has the extent of one tile on its highest own level.
            row, column = block.write.y // plan.block_px, block.write.x // plan.block_px
            yield from self._place(level, row, column, encoded.rest)

    def _place(
        self, level: int, row: int, column: int, part: Pixels | None
    ) -> Iterator[EncodedTile[_Stored]]:
        """Puts the halved pixels of a child into its parent tile on `level`."""
        key = (level, row // 2, column // 2)
        tile = self._open.get(key) or self._opened(key)
        tile.place(part, row % 2, column % 2)
        if tile.missing:
            return
        del self._open[key]
        pixels = tile.pixels
        data = None
        if pixels is not None:
            data = self._encode(padded(pixels, self._plan.output_tile_px))
        yield EncodedTile(*key, data)
        if level + 1 < len(self._plan.levels):
            rest = None if pixels is None else halved(pixels)
            yield from self._place(level + 1, key[1], key[2], rest)

    def _opened(self, key: tuple[int, int, int]) -> _OpenTile:
        half = self._plan.output_tile_px // 2
        tile = self._open[key] = _OpenTile(*self._shape(key), half, self._glass)
        return tile

    def _shape(self, key: tuple[int, int, int]) -> tuple[int, int]:
        level, row, column = key
        size, side = self._plan.levels[level], self._plan.output_tile_px
        return min(side, size.height - row * side), min(side, size.width - column * side)


class _OpenTile:
    """An upper tile that lacks children; it has no pixels while all of them are glass."""

    def __init__(self, height: int, width: int, half: int, glass: _Colour) -> None:
        self.pixels: Pixels | None = None
        self.missing = (1 + (height > half)) * (1 + (width > half))
        self._shape, self._half, self._glass = (height, width, 3), half, glass

    def place(self, part: Pixels | None, down: int, right: int) -> None:
        self.missing -= 1
        if part is None:
            return
        if self.pixels is None:
            self.pixels = np.empty(self._shape, np.uint8)
            self.pixels[:] = self._glass
        y, x = down * self._half, right * self._half
        self.pixels[y : y + part.shape[0], x : x + part.shape[1]] = part
