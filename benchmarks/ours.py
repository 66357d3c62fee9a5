"""slidesr's rows of the comparison: the network alone, and the whole command."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from material import write_slide

from slidesr.geometry import Box, Pixels
from slidesr.output.compression import Compression
from slidesr.output.format import Format
from slidesr.pipeline.job import Job
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import open_model, prepared
from slidesr.pipeline.run import upscale
from slidesr.slide import open_slide


@dataclass(frozen=True)
class Ours:
    """A job of the whole command, all tissue, and the pixels of its region including the halo."""

    job: Job
    surroundings: Pixels

    @property
    def phase_px(self) -> int:
        """Offset of the first attention window within the region."""
        return self.job.model.spec.generator.phase_px

    @property
    def image(self) -> Pixels:
        """Input of the peers, u8[side, side, 3]: the region, shifted to start at a window."""
        region = self.job.plan.region.moved(-self.phase_px, -self.phase_px)
        return np.ascontiguousarray(self._read(region))

    def network_alone(self) -> Pixels:
        """Runs the model on the tiles of the command's plan, from memory to memory."""
        plan, model = self.job.plan, self.job.model
        result = np.empty((plan.output.height, plan.output.width, 3), np.uint8)
        for block in plan.blocks():
            by_shape: defaultdict[tuple[int, int], list[Box]] = defaultdict(list)
            for tile in block.tiles:
                by_shape[tile.height, tile.width].append(tile)
            for tiles in by_shape.values():
                inputs = np.stack([self._read(tile.grown(model.halo_px)) for tile in tiles])
                for tile, output in zip(tiles, model.upscale(inputs), strict=True):
                    result[(tile.within(plan.region) * plan.scale).slices] = output
        return result

    def whole_command(self) -> None:
        """Runs the whole command: read, network, pyramid, JPEG, OME-TIFF."""
        upscale(self.job)

    def without_loss(self) -> Pixels:
        """Runs the whole command with lossless compression; returns its pixels."""
        stored = Format(Compression("lzw"))
        upscale(replace(self.job, options=replace(self.job.options, format=stored)))
        with open_slide(self.job.output) as output:
            frame = output.frame()
            return frame.read(frame.size.box)

    def _read(self, box: Box) -> Pixels:
        outer = self.job.plan.region.grown(self.job.model.halo_px)
        return self.surroundings[box.within(outer).slices]


@contextmanager
def opened(slide: Path | None, side_px: int, device: str) -> Iterator[Ours]:
    """Opens the centre of a slide (synthetic if None), aligned to the grid of attention windows."""
    options = Options(tissue="all", tolerance=None, overwrite=True, device=device)
    model = open_model(options)
    with tempfile.TemporaryDirectory() as folder:
        slide = slide or write_slide(Path(folder) / "slide.tif", side_px, side_px)
        options = replace(options, crop=_middle(slide, side_px, model.window_px))
        with prepared(slide, Path(folder) / "out.ome.tif", options, model) as job:
            yield Ours(job, job.frame.read(job.plan.region.grown(model.halo_px)))


def _middle(slide: Path, side_px: int, grid_px: int) -> Box:
    with open_slide(slide) as source:
        width, height = source.size.width, source.size.height
    if min(width, height) < side_px:
        raise SystemExit(f"{slide.name}: {width} x {height} px is smaller than --side {side_px}")
    x, y = ((length - side_px) // 2 // grid_px * grid_px for length in (width, height))
    return Box(x, y, side_px, side_px)
