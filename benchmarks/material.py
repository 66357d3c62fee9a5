"""Slides made for measuring: real texture on glass, of any size, small on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage.data import immunohistochemistry

from slidesr.geometry import Box, Mpp
from slidesr.output.compression import Compression
from slidesr.output.metadata import Metadata
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.pyramid import Painted, UpperPyramid, encode_block
from slidesr.plan import Block, Plan

GLASS = (243, 241, 244)


def write_slide(path: Path, side_px: int, tissue_px: int) -> Path:
    """A generic pyramidal BigTIFF of `side_px` squared, a square of `tissue_px` in its middle.

    All glass is one stored tile, so a slide of 100,000 px squared takes a few megabytes.
    """
    plan = Plan(Box(0, 0, side_px, side_px), scale=1, window_px=32)
    start = (side_px - tissue_px) // 2 // plan.block_px * plan.block_px
    tissue = Box(start, start, tissue_px, tissue_px)
    compression = Compression()
    upper = UpperPyramid(plan, compression, GLASS)
    glass = np.full((plan.output_tile_px, plan.output_tile_px, 3), GLASS, np.uint8)
    facts = Metadata(Mpp(1.0, 1.0), 10.0, None)
    with OmeTiffWriter(
        path,
        plan,
        facts,
        compression,
        glass=compression.encode(glass),
        layout="generic",
        overwrite=True,
    ) as writer:
        for block in plan.blocks():
            encoded = encode_block(_painted(block, tissue, plan), plan, compression)
            writer.append(encoded.tiles)
            writer.append(upper.add(encoded))
        writer.finish()
    return path


def _painted(block: Block, tissue: Box, plan: Plan) -> Painted:
    rows, columns = (
        -(-side // plan.output_tile_px) for side in (block.write.height, block.write.width)
    )
    shared = block.write.clipped(tissue)
    if not shared.area:
        return Painted(block, None, np.ones((rows, columns), bool))
    pixels = np.empty((block.write.height, block.write.width, 3), np.uint8)
    pixels[:] = GLASS
    pixels[shared.within(block.write).slices] = texture(shared.within(tissue))
    return Painted(block, pixels, np.zeros((rows, columns), bool))


def texture(box: Box) -> npt.NDArray[np.uint8]:
    """A part of an endless section: scikit-image's colon, mirrored again and again."""
    section: npt.NDArray[np.uint8] = immunohistochemistry()  # type: ignore[no-untyped-call]
    tile = np.block([[[section], [section[:, ::-1]]], [[section[::-1]], [section[::-1, ::-1]]]])
    rows, columns = (np.arange(part.start, part.stop) % 1024 for part in box.slices)
    return np.ascontiguousarray(tile[np.ix_(rows, columns)])
