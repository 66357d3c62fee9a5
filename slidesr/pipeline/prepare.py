"""Opens and checks what a job needs: slide, model, tissue mask, plan, output, free space."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Mpp, Size
from slidesr.model.device import BATCH_SIZE, Engine
from slidesr.model.model import Model, load_model
from slidesr.model.weights import default_model
from slidesr.output.format import Format, is_zarr
from slidesr.output.staging import part_bytes
from slidesr.output.writer import check_output
from slidesr.pipeline.job import Job
from slidesr.pipeline.options import Options
from slidesr.regions.annotations import read_roi, roi_mask
from slidesr.regions.tissue_mask import Tissue, all_tissue, read_mask
from slidesr.runtime.names import check_name
from slidesr.runtime.paths import is_remote
from slidesr.slide import Frame, Slide, open_slide
from slidesr.slide.folders import stem_of
from slidesr.tiling import TilePlan

_log = logging.getLogger(__name__)
_ROI_MASK_PX = 2048
_TILE_PX = 256
_LEAST_BLOCKS = 4
_LARGEST_TILE_PX = 512  # 1024 px: 4% faster, for a third of a GB more and progress in leaps
_LARGEST_BLOCK_PX = 4096  # 50 MB of output; about eight of them are in memory
_FAR = 2  # times outside the training's pixel sizes: then there is a warning


@contextmanager
def prepared(
    source: Path, output: Path | None, options: Options, model: Model | None = None
) -> Iterator[Job]:
    """Opens and checks everything that a run needs; writes nothing.

    `model` comes from `open_model` for the same options; jobs may share one. Raises RefusedError
    for anything that would make the run impossible.
    """
    with opened_slide(source, options) as slide:
        output = output_for(source, output, options.scale)
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
        job.metadata()  # raises RefusedError for missing properties
        _check_space(job)
        _warn_of_size(job)
        yield job


def _plan(region: Box, model: Model) -> TilePlan:
    """The plan of a job.

    On a GPU a block holds a batch of tiles of one size. On a CPU it is one large tile, smaller
    where there would be fewer than four, since progress and threads need several.
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
    """The model that the options name, on their device or on an engine chosen before."""
    engine = engine or engine_for(options)
    name = options.model or default_model(options.scale)
    model = load_model(
        name,
        engine,
        perception=options.perception,
        ensemble=options.ensemble,
        tolerance=options.tolerance,
    )
    if model.scale != options.scale:
        raise RefusedError(f"model {model.spec.name} is for x{model.scale}, not x{options.scale}")
    return model


def engine_for(options: Options) -> Engine:
    """The device and precision that the options name; RefusedError where they are absent."""
    engine = Engine.choose(options.device, options.precision, options.batch_size or BATCH_SIZE)
    if options.batch_size is not None and engine.device == "cpu":
        raise RefusedError("--batch-size is for GPUs; a CPU upscales tile by tile. Leave it out.")
    return engine


def opened_slide(source: Path, options: Options) -> Slide:
    """Opens the slide with the pixel size, colour profile and tile policy of the options."""
    fill = options.on_bad_tile == "fill"
    return open_slide(
        source, mpp=_source_mpp(options), icc=options.icc, window=options.window, fill=fill
    )


def frame_of(slide: Slide, options: Options) -> Frame:
    """The slide at the resolution that the options name."""
    return slide.frame(level=options.level, mpp=options.mpp, magnification=options.magnification)


def output_for(source: Path, output: Path | None, scale: int) -> Path:
    """The output that the user names; in an existing folder, or by default, NAME.x4.ome.tif."""
    if output is None:
        return default_output(source, scale)
    check_name(output)
    if output.is_dir() and output.suffix != ".zarr":
        return default_output(source, scale, output)
    return output


def default_output(source: Path, scale: int, folder: Path | None = None) -> Path:
    """NAME.xS.ome.tif in a folder, by default the current one."""
    return (folder or Path()) / f"{stem_of(source)}.x{scale}.ome.tif"


def _source_mpp(options: Options) -> Mpp | None:
    if options.source_mpp is None:
        return None
    try:
        return Mpp(options.source_mpp, options.source_mpp)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _tissue(slide: Slide, options: Options) -> Tissue:
    """The tissue mask of the options, restricted to the region of interest if there is one."""
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
    return tissue.restricted(roi_mask(read_roi(roi, slide.size), slide.size, size))


def _check_space(job: Job) -> None:
    """Refuses what cannot fit, even if the estimate is four times too high."""
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
            "%s: stored losslessly, about %.0f MB; an .ome.tif with JPEG takes about %.0f MB.",
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
