"""`slidesr upscale`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidesr.cli import options as common
from slidesr.cli.show import as_json, console, running_bar, running_bars, stoppable
from slidesr.cli.show_upscale import show_estimate, show_outcomes, show_profile, show_summary
from slidesr.errors import RefusedError
from slidesr.geometry import Box
from slidesr.imaging.icc import ICC_CHOICES
from slidesr.pipeline.options import BAD_TILE_CHOICES, SCALES, Options
from slidesr.runtime.sandbox import sandboxed

if TYPE_CHECKING:
    from slidesr.pipeline.batch import SlideOutcome

_DEFAULTS = common.DEFAULTS


class _CropType(click.ParamType[Box]):
    name = "x,y,w,h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Box:
        try:
            x, y, width, height = map(int, value.split(","))
            box = Box(x, y, width, height)
        except ValueError:
            self.fail(f"{value!r} is not four whole numbers x,y,width,height", param, ctx)
        if not box.area:
            self.fail(f"{value!r} is empty", param, ctx)
        return box


class _ScaleType(click.Choice[str]):
    def __init__(self) -> None:
        super().__init__([str(scale) for scale in SCALES])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return int(super().convert(str(value), param, ctx))


@click.command()
@click.argument(
    "sources", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The new slide, .ome.tif, .tif or .ome.zarr, which may be a URL; for many, their folder."
    "  [default: NAME.x4.ome.tif in the current folder]",
)
@click.option(
    "--scale", type=_ScaleType(), default=_DEFAULTS.scale, show_default=True, help="Factor."
)
@click.option("--level", type=int, help="Pyramid level to read.  [default: 0]")
@click.option("--mpp", type=float, help="Resolution to read, in um per pixel.")
@click.option("--magnification", type=float, help="Magnification to read, such as 10.")
@click.option("--source-mpp", type=float, help="um per pixel of level 0, if the file lacks it.")
@click.option("--crop", type=_CropType(), help="Upscale only this box of level-0 pixels.")
@click.option(
    "--roi",
    type=click.Path(path_type=Path),
    help="Upscale only tissue inside these annotations: GeoJSON (QuPath) or ASAP XML.",
)
@click.option(
    "--tissue", default=_DEFAULTS.tissue, show_default=True, help="auto, all, or a mask image."
)
@click.option(
    "--model",
    help="A shipped model's name (see `slidesr models`) or a safetensors file."
    "  [default: the scale's own]",
)
@click.option(
    "--perception",
    type=click.FloatRange(0, 1),
    help="From the model's fidelity weights (0) to its own, sharper and freer ones (1)."
    "  [default: 1]",
)
@click.option(
    "--ensemble",
    is_flag=True,
    help="Average eight passes, turned and mirrored: the truest result, for 8 times the time.",
)
@click.option(
    "--consistent/--no-consistent",
    default=True,
    show_default=True,
    help="Correct the result so that, reduced, it matches the slide.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=_DEFAULTS.tolerance,
    show_default=True,
    help="Grey levels that --consistent leaves for JPEG errors; 0 for lossless slides.",
)
@common.stored
@common.window
@click.option(
    "--on-bad-tile",
    type=click.Choice(BAD_TILE_CHOICES),
    default=_DEFAULTS.on_bad_tile,
    show_default=True,
    help="Where the slide cannot be read: stop, or fill with background, list it, exit 3.",
)
@click.option(
    "--icc",
    type=click.Choice(ICC_CHOICES),
    default=_DEFAULTS.icc,
    show_default=True,
    help="The slide's colour profile: keep it, convert to sRGB, or drop it.",
)
@click.option(
    "--keep-metadata",
    metavar="FIELD",
    multiple=True,
    help="Carry a property of the slide over, such as aperio.ImageID; repeatable.  [default: none]",
)
@click.option(
    "--device",
    default=_DEFAULTS.device,
    show_default=True,
    help="auto, cpu, cuda (all GPUs), cuda:N, or several: cuda:0,cuda:2.",
)
@common.precision
@click.option(
    "--batch-size", type=click.IntRange(1), help="Tiles a batch, on a GPU.  [default: 16]"
)
@click.option(
    "--num-workers",
    type=click.IntRange(1),
    default=_DEFAULTS.num_workers,
    show_default=True,
    help="Threads that read, and as many that encode.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Run on a dask cluster: tcp://HOST:8786, tls://..., or local:N processes.",
)
@common.overwrite
@click.option("--dry-run", is_flag=True, help="Only estimate size, time and memory.")
@click.option(
    "--profile",
    is_flag=True,
    help="Show where the time goes, and write OUTPUT.trace.json for ui.perfetto.dev.",
)
@common.json_output
@click.pass_context
def upscale(
    context: click.Context,
    /,
    sources: tuple[Path, ...],
    output: Path | None,
    *,
    dask: str | None,
    dry_run: bool,
    profile: bool,
    json_: bool,
    **choices: Any,
) -> None:
    """Upscale the tissue of slides and write slides.

    INPUT is a slide, several slides, folders of slides, or .csv files with a column `slide`. A
    folder with the DICOM files of one slide is that slide. Finished slides are
    skipped, and the same command resumes a stopped run.
    """
    common.refuse_idle(context, output)
    if common.is_given(context, "tolerance") and not choices["consistent"]:
        raise RefusedError("--tolerance has no effect with --no-consistent.")
    is_one = len(sources) == 1 and not _is_many(sources[0])
    if (dry_run or profile) and not (is_one and dask is None):
        raise RefusedError("--dry-run and --profile look at one slide at a time, in this process.")
    options = _options(choices)
    with console.status("loading"), sandboxed(sources[0]) if is_one else nullcontext():
        import slidesr.api  # noqa: F401 - torch takes 2 s; the trial reading runs meanwhile
    if dry_run:
        context.exit(_estimated(sources[0], output, options, json_=json_))
    if profile:
        context.exit(_profiled(sources[0], output, options, json_=json_))
    if is_one:
        context.exit(_upscaled(sources[0], output, options, dask, json_=json_))
    context.exit(_upscaled_many(sources, output or Path(), options, dask, json_=json_))


def _options(choices: Mapping[str, Any]) -> Options:
    values = dict(choices)
    stored = ("compression", "quality", "layout", "ngff_version")
    format_ = common.format_of(**{name: values.pop(name) for name in stored})
    consistent, tolerance = values.pop("consistent"), values.pop("tolerance")
    return Options(format=format_, tolerance=tolerance if consistent else None, **values)


def _is_many(source: Path) -> bool:
    """Whether it is a folder or a list of slides."""
    if not source.is_dir():
        return source.suffix.lower() == ".csv"
    from slidesr.slide.folders import is_one_slide

    return not is_one_slide(source)


def _upscaled(
    source: Path, output: Path | None, options: Options, dask: str | None, *, json_: bool
) -> int:
    from slidesr import api

    with stoppable(), running_bar(source.name) as report:
        summary = api.upscale(source, output, options=options, on_progress=report, dask=dask)
    show_summary(summary, json_=json_)
    return summary.exit_code


def _profiled(source: Path, output: Path | None, options: Options, *, json_: bool) -> int:
    from slidesr import api

    with stoppable(), running_bar(source.name) as report:
        summary, profile = api.profile(source, output, options=options, on_progress=report)
    show_summary(summary, json_=json_)
    show_profile(summary, profile)
    return summary.exit_code


def _estimated(source: Path, output: Path | None, options: Options, *, json_: bool) -> int:
    from slidesr import api

    with console.status("trying one sample of the tissue"):
        estimate = api.estimate(source, output, options=options)
    show_estimate(estimate, json_=json_)
    return 0


def _upscaled_many(
    sources: tuple[Path, ...], folder: Path, options: Options, dask: str | None, *, json_: bool
) -> int:
    from slidesr import api
    from slidesr.pipeline.batch import as_plain, worst

    with stoppable(), running_bars() as bars:

        def finished(outcome: SlideOutcome) -> None:
            bars.end(outcome.item.source.name, "" if not outcome.exit_code else outcome.why)

        outcomes = api.upscale_many(
            sources,
            folder,
            options=options,
            on_progress=lambda item, now: bars.update(item.source.name, now),
            on_outcome=finished,
            dask=dask,
        )
    if json_:
        as_json(as_plain(outcomes))
    else:
        show_outcomes(outcomes, folder)
    return worst(outcomes)
