"""A job: a slide, a plan, a model and an output that were checked and found to fit."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from slidesr import __version__
from slidesr.errors import RefusedError, SlidesrError, printable
from slidesr.geometry import Box, Mpp, Size
from slidesr.model.device import Engine
from slidesr.model.model import Model, load_model
from slidesr.model.weights import default_model
from slidesr.output.metadata import Metadata
from slidesr.output.staging import identity_of, part_bytes
from slidesr.output.writer import SUFFIXES, Format, check_output, is_zarr
from slidesr.pipeline.block_upscaler import BlockUpscaler
from slidesr.pipeline.options import Options
from slidesr.pipeline.tile_size import Tuner, remembered
from slidesr.regions.annotations import read_roi, roi_mask
from slidesr.regions.tissue_mask import Tissue, all_tissue, read_mask
from slidesr.runtime.paths import is_remote
from slidesr.slide import Frame, Slide, open_slide
from slidesr.tiling import CELL_PX, Block, TilePlan

_log = logging.getLogger(__name__)
_ROI_MASK_PX = 2048
_TILE_PX = 256
_LEAST_BLOCKS = 4
_LARGEST_TILE_PX = 512  # 1024 px: 4% faster, for a third of a GB more and progress in leaps
_LARGEST_BLOCK_PX = 4096  # 50 MB of output, of which eight or so are in memory
_FAR = 2  # a pixel size this many times outside the training's gets a warning


@dataclass(frozen=True)
class Job:
    """A run that was checked and found possible."""

    slide: Slide
    frame: Frame
    output: Path
    plan: TilePlan
    tissue: Tissue
    model: Model
    options: Options

    @property
    def output_mpp(self) -> Mpp | None:
        return self.frame.mpp * (1 / self.plan.scale) if self.frame.mpp else None

    @cached_property
    def painter(self) -> BlockUpscaler:
        return BlockUpscaler(self.frame, self.plan, self.tissue, self.model, self.tuner)

    @cached_property
    def tuner(self) -> Tuner:
        """What earlier runs on this machine have found of the size of tiles, and this one finds."""
        return Tuner.up_to(self.plan.tile_px, remembered(self.model.machine))

    @cached_property
    def tissue_px(self) -> int:
        """The source pixels that go through the network; counted once, over all blocks."""
        painter = self.painter
        return sum(tissue_px(painter, block) for block in self.plan.blocks())

    @property
    def about_bytes(self) -> int:
        """A rough guess of the output's size: half as much and twice as much are common."""
        tissue = self.tissue_px * self.plan.scale**2
        return int(tissue * self.options.format.bytes_per_px(self.output))

    def identity(self) -> dict[str, str]:
        """All that decides the output's bytes, hashed by the name that a user knows it by.

        Whoever goes on with a stopped run must bring the same.
        """
        options, engine = self.options, self.model.engine
        kind = engine.device.partition(":")[0]
        told: dict[str, object] = {
            "slide": (*self.slide.stamp, self.frame.level, self.frame.mpp),
            "model": (self.model.sha256, self.model.spec.name),
            "device": (kind, engine.precision, self.model.batch_size),
            "version": versions(),
            "tissue mask": (self.tissue.mask.tobytes(), self.tissue.glass),
            "plan (scale, level, crop)": self.plan,
            "compression": options.format,
            "metadata": (replace(self.metadata(), provenance={}), self._kept_metadata()),
            "way with bad tiles": options.on_bad_tile,
            "way with colour": options.icc,
        }
        return identity_of(told)

    def metadata(self) -> Metadata:
        magnification = self.frame.magnification
        return Metadata(
            mpp=self.output_mpp,
            magnification=magnification * self.plan.scale if magnification else None,
            icc_profile=self.slide.icc_profile,
            provenance=self._provenance(),
        )

    def _provenance(self) -> dict[str, str]:
        region = self.plan.region
        return {
            "synthetic": "true",
            "notice": "Upscaled by a neural network. Details are invented. Not for diagnosis.",
            "software": f"slidesr {__version__}",
            "model": self.model.spec.name,
            "model_sha256": self.model.sha256,
            "precision": self.model.engine.precision,
            "scale": str(self.plan.scale),
            "source_mpp": str(self.frame.mpp) if self.frame.mpp else "unknown",
            "source_level": str(self.frame.level),
            "source_region": f"{region.x},{region.y},{region.width},{region.height}",
            "tissue_share": f"{self.tissue.share:.4f}",
            **self._kept_metadata(),
        }

    def _kept_metadata(self) -> dict[str, str]:
        """The slide's own words that the user wants to carry over; no others are."""
        words = self.slide.properties
        for name in self.options.keep_metadata:
            if name not in words:
                has = ", ".join(sorted(words)) or "none"
                raise RefusedError(f"{self.slide.path}: no metadata {name!r}; it has: {has}")
        return {f"source.{name}": printable(words[name]) for name in self.options.keep_metadata}

    def check_unchanged(self, begun: tuple[int, int]) -> None:
        """Raises SlidesrError where the slide is not the one that it was when the run `begun`."""
        if self.slide.stamp != begun:
            raise SlidesrError(
                f"{self.slide.path}: changed while it was read, so nothing is published."
                " Begin anew with --overwrite."
            )


@contextmanager
def prepared(
    source: Path, output: Path | None, options: Options, model: Model | None = None
) -> Iterator[Job]:
    """Opens and checks everything that a run needs; nothing is written.

    `model` is what `open_model` gives for the options; many jobs may share one. Raises RefusedError
    for whatever would make the run impossible.
    """
    with opened_slide(source, options) as slide:
        output = output or default_output(source, options.scale)
        check_output(output, source, overwrite=options.overwrite)
        frame = frame_of(slide, options)
        region = frame.box_from_level0(options.crop) if options.crop else frame.size.box
        if region.area == 0:
            raise RefusedError(f"{source}: the crop {options.crop} lies outside the slide")
        tissue = _tissue(slide, options)
        model = model or open_model(options)
        _warn_of_pixel_size(source, frame, model)
        plan = _plan(region, model)
        job = Job(slide, frame, output, plan, tissue, model, options)
        job.metadata()  # raises where it cannot be made
        _check_space(job)
        _warn_of_size(job)
        yield job


def _plan(region: Box, model: Model) -> TilePlan:
    """The blocks of a job.

    On a GPU a block holds a batch of tiles of one size. On a CPU it is the largest tile that may be
    of use, smaller where these would not be four: progress, and threads, want several.
    """

    def of(tile_px: int, tiles: int = 1) -> TilePlan:
        return TilePlan.near(tile_px, region, model.scale, model.window_px, tiles=tiles)

    if model.batch_size > 1:
        return of(_TILE_PX, model.batch_size)
    tile_px = min(_LARGEST_TILE_PX, _LARGEST_BLOCK_PX // model.scale)
    while tile_px > _TILE_PX and of(tile_px).block_count < _LEAST_BLOCKS:
        tile_px //= 2
    return of(tile_px)


def open_model(options: Options, engine: Engine | None = None) -> Model:
    """The model that the options name, on their device, or on an engine that was chosen before."""
    engine = engine or Engine.choose(options.device, options.precision, options.batch_size)
    name = options.model or default_model(options.scale)
    model = load_model(name, engine, perception=options.perception, tolerance=options.tolerance)
    if model.scale != options.scale:
        raise RefusedError(f"model {model.spec.name} is for x{model.scale}, not x{options.scale}")
    return model


def opened_slide(source: Path, options: Options) -> Slide:
    """The slide as the options want it read."""
    fill = options.on_bad_tile == "fill"
    return open_slide(source, mpp=_source_mpp(options), icc=options.icc, fill=fill)


def frame_of(slide: Slide, options: Options) -> Frame:
    """The resolution that the options name."""
    return slide.frame(level=options.level, mpp=options.mpp, magnification=options.magnification)


def versions() -> str:
    """Of what decides the output's bytes."""
    return ", ".join(f"{name} {version(name)}" for name in ("slidesr", "torch", "imagecodecs"))


def default_output(source: Path, scale: int, folder: Path | None = None) -> Path:
    """The name of a result where the user gives none."""
    return (folder or Path()) / f"{_stem(source)}.x{scale}.ome.tif"


def _source_mpp(options: Options) -> Mpp | None:
    if options.source_mpp is None:
        return None
    try:
        return Mpp(options.source_mpp, options.source_mpp)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _tissue(slide: Slide, options: Options) -> Tissue:
    """The tissue mask that the options ask for, inside the region of interest if there is one."""
    if options.tissue == "all":
        tissue = all_tissue()
    else:
        mask = None if options.tissue == "auto" else read_mask(Path(options.tissue), slide.size)
        tissue = slide.find_tissue()
        tissue = replace(mask, glass=tissue.glass) if mask else tissue
    return tissue if options.roi is None else _inside(options.roi, slide, tissue)


def _inside(roi: Path, slide: Slide, tissue: Tissue) -> Tissue:
    """The tissue that lies in a region of interest."""
    shrink = max(1.0, max(slide.size.width, slide.size.height) / _ROI_MASK_PX)
    size = Size(*(max(1, round(side / shrink)) for side in (slide.size.width, slide.size.height)))
    inside = roi_mask(read_roi(roi), slide.size, size)
    if not inside.any():
        raise RefusedError(f"{roi}: lies wholly outside the slide; its unit is level-0 pixels")
    return tissue.restricted(inside)


def tissue_px(painter: BlockUpscaler, block: Block) -> int:
    """Tissue of a block in source pixels, by cells; never more than the block itself."""
    return min(int(painter.tissue_cells(block).sum()) * CELL_PX**2, block.source.area)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".ome.zarr.zip", ".zarr.zip", *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def _check_space(job: Job) -> None:
    """Refuses what cannot be: a guess is not trusted to more than a quarter."""
    if is_remote(job.output):
        return
    disk = shutil.disk_usage(job.output.parent)
    free = disk.free + part_bytes(job.output)
    if disk.total and job.about_bytes / 4 > free:
        raise RefusedError(
            f"{job.output}: takes about {job.about_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are"
            " free. Make room, or choose another folder with -o."
        )


def _warn_of_size(job: Job) -> None:
    if is_zarr(job.output):
        jpeg = job.about_bytes / job.options.format.bytes_per_px(job.output)
        jpeg *= Format().bytes_per_px(Path("jpeg.ome.tif"))
        _log.warning(
            "%s: is stored without loss, about %.0f MB; an .ome.tif with JPEG takes about %.0f MB.",
            *(job.output.name, job.about_bytes / 1e6, jpeg / 1e6),
        )


def _warn_of_pixel_size(source: Path, frame: Frame, model: Model) -> None:
    finest, coarsest = model.spec.trained_um_per_px
    if frame.mpp is None:
        _log.warning(
            "%s: no pixel size, so none is written. Give it with --source-mpp.", source.name
        )
    elif not finest / _FAR <= frame.mpp.mean <= coarsest * _FAR:
        _log.warning(
            "%s: %s um/px is outside the %.3g-%.3g um/px that %s was trained on;"
            " expect worse results. Another --level or --mpp may fit.",
            *(source.name, frame.mpp, finest, coarsest, model.spec.name),
        )
