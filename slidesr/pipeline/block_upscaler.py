"""From a block of the plan to its pixels: read, upscale the tissue, enlarge the rest by bicubic."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from slidesr.geometry import Box, Pixels
from slidesr.model.model import Upscaler
from slidesr.output.pyramid import UpscaledBlock
from slidesr.pipeline.tile_size import Tuner
from slidesr.regions.tissue_mask import Tissue
from slidesr.slide import Frame
from slidesr.tiling import CELL_PX, Block, TilePlan

_BICUBIC_HALO_PX = 2
_KEPT_CELLS = 256  # blocks; each is needed when it is scheduled and when it comes back

# A tile of plain glass is stored once for the whole slide, in the colour of the glass. A tile is
# plain if its mean is that colour, closer than the eye sees at a border between tiles, and nothing
# in it exceeds a camera's noise. Both in grey levels of 0..255.
_GLASS_MEAN_TOLERANCE = 1.5
_GLASS_NOISE_TOLERANCE = 16


@dataclass(frozen=True)
class BlockInput:
    """The source pixels of a block: u8[h, w, 3] of `box`, and which cells of `cover` are tissue."""

    block: Block
    box: Box
    pixels: Pixels
    tissue: npt.NDArray[np.bool_]

    def view(self, box: Box) -> Pixels:
        return self.pixels[box.within(self.box).slices]


class BlockUpscaler:
    """Upscales blocks. `read` may run in many threads, `upscale` in one.

    Where the model takes tiles one by one, the `tuner` chooses their size.
    """

    def __init__(
        self,
        frame: Frame,
        plan: TilePlan,
        tissue: Tissue,
        model: Upscaler,
        tuner: Tuner | None = None,
    ) -> None:
        self._frame, self._plan, self._tissue, self._model = frame, plan, tissue, model
        self._tuner = tuner or Tuner([plan.tile_px])

        self.tissue_cells = lru_cache(_KEPT_CELLS)(self._tissue_cells)

    def _tissue_cells(self, block: Block) -> npt.NDArray[np.bool_]:
        """Which cells of the block's cover are tissue: bool[rows, columns]."""
        return self._tissue.cells(block.cover, self._frame.size, CELL_PX)

    def read(self, block: Block) -> BlockInput:
        tissue = self.tissue_cells(block)
        if tissue.any():
            box = block.cover.grown(self._model.halo_px)
        else:
            box = block.source.grown(_BICUBIC_HALO_PX)
        return BlockInput(block, box, self._frame.read(box), tissue)

    def upscale(self, raw: BlockInput) -> UpscaledBlock:
        """The block's output pixels; no pixel depends on which block it belongs to."""
        glass = self._plain_glass(raw)
        if glass.all():
            return UpscaledBlock(raw.block, None, glass)
        pixels = self._bicubic_background(raw, glass)
        self._upscale_tissue(raw, pixels)
        return UpscaledBlock(raw.block, pixels, glass)

    def _plain_glass(self, raw: BlockInput) -> npt.NDArray[np.bool_]:
        """Which of the block's output tiles on level 0 are plain glass."""
        glass = np.array(self._tissue.glass, np.int16)
        rows, columns = self._tile_grid(raw.block)
        if not raw.tissue.any() and _within(raw.pixels, self._tissue.glass, 1):
            return np.ones((rows, columns), bool)  # the same answer as below, but faster
        plain = np.zeros((rows, columns), bool)
        for row, column in np.ndindex(rows, columns):
            source = self._plan.source_from_output(self._output_tile(raw.block, row, column))
            if self._any_tissue(raw, source):
                continue
            difference = raw.view(source.grown(_BICUBIC_HALO_PX)) - glass
            off = np.abs(difference.mean(axis=(0, 1))).max()
            noise = max(int(difference.max()), -int(difference.min()))
            plain[row, column] = off <= _GLASS_MEAN_TOLERANCE and noise <= _GLASS_NOISE_TOLERANCE
        return plain

    def _bicubic_background(self, raw: BlockInput, glass: npt.NDArray[np.bool_]) -> Pixels:
        """The whole block without the network: glass in its colour, the rest by bicubic."""
        write = raw.block.write
        pixels = np.empty((write.height, write.width, 3), np.uint8)
        for (row, column), plain in np.ndenumerate(glass):
            tile = self._output_tile(raw.block, row, column)
            source = self._plan.source_from_output(tile)
            view = pixels[tile.within(write).slices]
            if plain:
                view[:] = self._tissue.glass
            elif not self._all_tissue(raw, source):
                view[:] = _bicubic(raw.view(source.grown(_BICUBIC_HALO_PX)), self._plan.scale)
        return pixels

    def _upscale_tissue(self, raw: BlockInput, pixels: Pixels) -> None:
        """Upscales the tiles with tissue, and keeps their cells that are tissue."""
        tiles = filter(partial(self._any_tissue, raw), raw.block.tiles)
        if self._model.batch_size == 1:
            for part in chain.from_iterable(self._tissue_parts(raw, tile) for tile in tiles):
                self._keep_tissue(raw, part, self._upscaled_alone(raw, part), pixels)
            return
        by_shape: defaultdict[tuple[int, int], list[Box]] = defaultdict(list)
        for tile in tiles:
            by_shape[tile.height, tile.width].append(tile)
        for alike in by_shape.values():
            inputs = np.stack([raw.view(tile.grown(self._model.halo_px)) for tile in alike])
            for tile, upscaled in zip(alike, self._model.upscale(inputs), strict=True):
                self._keep_tissue(raw, tile, upscaled, pixels)

    def _upscaled_alone(self, raw: BlockInput, tile: Box) -> Pixels:
        started = time.perf_counter()
        (upscaled,) = self._model.upscale(raw.view(tile.grown(self._model.halo_px))[None])
        if tile.width == tile.height:
            self._tuner.note(tile.width, time.perf_counter() - started)
        return np.asarray(upscaled)

    def _tissue_parts(self, raw: BlockInput, tile: Box) -> Iterator[Box]:
        """Tiles of the tuner's size that cover all tissue of a tile and little else."""
        for part in tile.cut(self._tuner.side_px, self._plan.grid_px):
            yield from self._without_waste(raw, part)

    def _without_waste(self, raw: BlockInput, part: Box) -> list[Box]:
        """The tissue of a part as one tile or as several, whichever costs less."""
        if not self._any_tissue(raw, part):
            return []
        whole = self._tissue_part(raw, part)
        longer = max(whole.width, whole.height)
        halves = whole.cut(-(-longer // 2), self._plan.grid_px)
        if len(halves) == 1:
            return [whole]
        parts = [each for half in halves for each in self._without_waste(raw, half)]
        return parts if sum(map(self._cost, parts)) < self._cost(whole) else [whole]

    def _cost(self, tile: Box) -> int:
        """Relative cost: about half of the work covers the halo too."""
        return tile.area + tile.grown(self._model.halo_px).area

    def _tissue_part(self, raw: BlockInput, tile: Box) -> Box:
        """The smallest tile inside a tile that covers all its tissue."""
        cells = raw.tissue[_cell_slices(tile, raw.block)]
        rows, columns = (np.flatnonzero(cells.any(axis=axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        part = Box(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y) * CELL_PX
        return part.moved(tile.x, tile.y).snapped(self._plan.grid_px)

    def _keep_tissue(self, raw: BlockInput, tile: Box, upscaled: Pixels, pixels: Pixels) -> None:
        scale, block = self._plan.scale, raw.block
        kept = tile.clipped(block.source)  # a tile may reach beyond its block, onto the grid
        to = pixels[(kept.within(block.source) * scale).slices]
        upscaled = upscaled[(kept.within(tile) * scale).slices]
        if self._all_tissue(raw, kept):
            to[:] = upscaled
            return
        cells = raw.tissue[_cell_slices(tile, raw.block)]
        of_pixels = cells.repeat(CELL_PX * scale, 0).repeat(CELL_PX * scale, 1)
        is_tissue = of_pixels[(kept.within(tile) * scale).slices]
        to[is_tissue] = upscaled[is_tissue]

    def _any_tissue(self, raw: BlockInput, source: Box) -> bool:
        return bool(raw.tissue[_cell_slices(source, raw.block)].any())

    def _all_tissue(self, raw: BlockInput, source: Box) -> bool:
        return bool(raw.tissue[_cell_slices(source, raw.block)].all())

    def _tile_grid(self, block: Block) -> tuple[int, int]:
        side = self._plan.output_tile_px
        return -(-block.write.height // side), -(-block.write.width // side)

    def _output_tile(self, block: Block, row: int, column: int) -> Box:
        side, write = self._plan.output_tile_px, block.write
        return Box(write.x + column * side, write.y + row * side, side, side).clipped(write)


def _within(pixels: Pixels, colour: tuple[int, int, int], tolerance: int) -> bool:
    """Whether every pixel is the colour, give or take a tolerance."""
    extrema = cast(tuple[tuple[int, int], ...], Image.fromarray(pixels).getextrema())
    return all(
        level - tolerance <= low and high <= level + tolerance
        for level, (low, high) in zip(colour, extrema, strict=True)
    )


def _cell_slices(source: Box, block: Block) -> tuple[slice, slice]:
    """The cells that a source box meets, in an array of the cells of the block's cover."""
    inside = source.snapped(CELL_PX).within(block.cover)
    cells = Box(*(side // CELL_PX for side in (inside.x, inside.y, inside.width, inside.height)))
    return cells.slices


def _bicubic(pixels: Pixels, scale: int) -> Pixels:
    """Pillow's bicubic of all but a border of 2 px: u8[h + 4, w + 4, 3] -> u8[h*s, w*s, 3]."""
    halo = _BICUBIC_HALO_PX
    height, width = pixels.shape[0] - 2 * halo, pixels.shape[1] - 2 * halo
    enlarged = Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (width * scale, height * scale),
        Image.Resampling.BICUBIC,
        box=(halo, halo, halo + width, halo + height),
    )
    return np.asarray(enlarged)
