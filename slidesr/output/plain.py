"""Writes pixels that need no upscaling as a generic pyramidal slide, like Camelyon16's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidesr.geometry import Box
from slidesr.output.compression import Compression
from slidesr.output.metadata import Metadata
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.part import Target
from slidesr.output.pyramid import Painted
from slidesr.plan import Block, Plan

_U8 = npt.NDArray[np.uint8]


def write_plain(
    path: Path,
    region: Box,
    pixels: Callable[[Box], _U8 | None],
    metadata: Metadata,
    glass: tuple[int, int, int] = (255, 255, 255),
) -> Path:
    """Writes the pixels of `region`, asked for box by box; None is plain glass, stored once.

    512 px JPEG tiles, quality 90. An existing file is replaced. Memory is one block's.
    """
    plan = Plan(region, scale=1, window_px=1)
    target = Target(path, plan, metadata, glass, overwrite=True)
    with OmeTiffWriter(target, Compression(), "generic") as writer:
        for block in plan.blocks():
            writer.append(writer.encode(_painted(block, pixels(block.source), plan)))
        writer.finish()
    return path


def _painted(block: Block, pixels: _U8 | None, plan: Plan) -> Painted:
    sides = (block.write.height, block.write.width)
    rows, columns = (-(-side // plan.output_tile_px) for side in sides)
    return Painted(block, pixels, np.full((rows, columns), pixels is None))
