"""Writes pixels that need no upscaling: a slide in another container, or one that was made up."""

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
    """Writes pixels, asked for box by box in several threads; the output's size in bytes.

    None is plain glass, which a TIFF stores once. Goes on where a run with the same identity was
    stopped; `report` is told how many blocks are there. Memory is a few blocks.
    """
    with open_writer(target, format_) as sink:

        def encode(block: Block) -> tuple[int, EncodedBlock]:
            made = pixels(block.source)
            return block.index + 1, sink.encode(_painted(block, made, target.plan))

        todo = islice(target.plan.blocks(), sink.resumed, None)
        report(sink.resumed)
        with closing(ordered_map(encode, todo, workers=num_workers, ahead=num_workers + 1)) as made:
            for blocks, encoded in made:
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
    """Writes the pixels of `region` as a generic pyramidal slide, like Camelyon16's own.

    512 px JPEG tiles, quality 90. An existing file is replaced.
    """
    plan = TilePlan(region, scale=1, window_px=1)
    target = Target(path, plan, metadata, glass, overwrite=True)
    copy_pixels(target, Format(layout="generic"), pixels, num_workers=1)
    return path


def _painted(block: Block, pixels: Pixels | None, plan: TilePlan) -> UpscaledBlock:
    sides = (block.write.height, block.write.width)
    rows, columns = (-(-side // plan.output_tile_px) for side in sides)
    return UpscaledBlock(block, pixels, np.full((rows, columns), pixels is None))
