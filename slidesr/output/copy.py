"""Writes pixels that need no upscaling: a converted slide, or a synthetic one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from slidesr.geometry import Box, Pixels
from slidesr.output.format import Format
from slidesr.output.metadata import Metadata
from slidesr.output.pyramid import EncodedBlock, UpscaledBlock
from slidesr.output.staging import Target
from slidesr.output.writer import open_writer
from slidesr.runtime.ordered_map import ordered_map
from slidesr.tiling import Block, TilePlan


def copy_pixels(
    target: Target,
    format_: Format,
    pixels: Callable[[Box], Pixels | None],
    report: Callable[[int], None] = lambda blocks: None,
    *,
    num_workers: int = 2,
) -> int:
    """Writes the output from a function that returns the pixels of a box; its size in bytes.

    `pixels` is called from several threads; None is plain glass, which a TIFF stores once. Resumes
    a stopped run with the same identity; `report` receives the number of finished blocks. Memory:
    a few blocks.
    """
    with open_writer(target, format_) as sink:

        def encode(block: Block) -> tuple[int, EncodedBlock]:
            upscaled = _upscaled(block, pixels(block.source), target.plan)
            return block.index + 1, sink.encode(upscaled)

        todo = islice(target.plan.blocks(), sink.resumed, None)
        report(sink.resumed)
        encoding = ordered_map(encode, todo, workers=num_workers, ahead=num_workers + 1)
        with closing(encoding) as results:
            for blocks, encoded in results:
                sink.append(encoded)
                sink.settle(blocks)
                report(blocks)
        return sink.finish()


def write_plain(
    path: Path,
    region: Box,
    pixels: Callable[[Box], Pixels | None],
    metadata: Metadata,
    glass: tuple[int, int, int] = (255, 255, 255),
) -> Path:
    """Writes the pixels of `region` as a generic pyramidal TIFF, like those of Camelyon16.

    512 px JPEG tiles, quality 90. Replaces an existing file.
    """
    plan = TilePlan(region, scale=1, window_px=1)
    target = Target(path, plan, metadata, glass, overwrite=True)
    copy_pixels(target, Format(layout="generic"), pixels, num_workers=1)
    return path


def _upscaled(block: Block, pixels: Pixels | None, plan: TilePlan) -> UpscaledBlock:
    sides = (block.write.height, block.write.width)
    rows, columns = (-(-side // plan.output_tile_px) for side in sides)
    return UpscaledBlock(block, pixels, np.full((rows, columns), pixels is None))
