"""`slidesr upscale`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidesr.cli import options as common
from slidesr.cli.batch import run_batch
from slidesr.cli.run import opened, run_job, show_profile, show_summary
from slidesr.cli.show import as_json, bytes_text, console, facts, time_text
from slidesr.errors import RefusedError
from slidesr.geometry import Box
from slidesr.imaging.icc import ICC_CHOICES
from slidesr.pipeline.executor import Workers, workers
from slidesr.runtime.paths import as_typed, is_store
from slidesr.runtime.sandbox import sandboxed

if TYPE_CHECKING:
    from slidesr.pipeline.job import Job
    from slidesr.pipeline.options import Options


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


@click.command()
@click.argument(
    "sources", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The new slide, .ome.tif, .tif or .ome.zarr, which may be a URL; for many, their folder."
    " [default: NAME.x4.ome.tif in the current folder]",
)
@click.option("--scale", type=click.Choice(["2", "4", "8", "16"]), default="4", show_default=True)
@click.option("--level", type=int, help="Read this level of the slide. [default: 0]")
@click.option("--mpp", type=float, help="Read the slide at this many um per pixel.")
@click.option("--magnification", type=float, help="Read the slide at this magnification.")
@click.option("--source-mpp", type=float, help="um per pixel of level 0, where the file is silent.")
@click.option("--crop", type=_CropType(), help="Only this part, in level-0 pixels.")
@click.option(
    "--roi",
    type=click.Path(path_type=Path),
    help="Only tissue inside these annotations: GeoJSON (QuPath) or ASAP XML.",
)
@click.option("--tissue", default="auto", show_default=True, help="auto, all, or a mask image.")
@click.option("--model", help="A shipped model's name (slidesr models) or a safetensors file.")
@click.option(
    "--perception",
    type=click.FloatRange(0, 1),
    help="From the model's fidelity weights, 0, to its own, which are sharper and freer, 1.",
)
@click.option(
    "--consistent/--no-consistent",
    default=True,
    show_default=True,
    help="Mend what the network makes so that, shrunk, it is what the slide shows.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="Of --consistent, in grey levels: room for JPEG's errors; 0 for slides without loss.",
)
@common.stored
@click.option(
    "--on-bad-tile",
    type=click.Choice(["stop", "fill"]),
    default="stop",
    show_default=True,
    help="Where the slide cannot be read: stop, or fill with background, list it, exit 3.",
)
@click.option(
    "--icc",
    type=click.Choice(ICC_CHOICES),
    default="keep",
    show_default=True,
    help="The slide's colour profile: keep it, convert to sRGB, or drop it.",
)
@click.option(
    "--keep-metadata",
    metavar="FIELD",
    multiple=True,
    help="Carry a property of the slide over, such as aperio.ImageID. By default none is.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda (all there are), cuda:N, or several: cuda:0,cuda:2.",
)
@common.precision
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Tiles a batch on a GPU.")
@click.option(
    "--num-workers", type=click.IntRange(1), default=2, help="Threads to read, to encode."
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Let a dask cluster make the blocks: tcp://HOST:8786, tls://..., or local:N processes.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Only say what it would do, and what it would cost.")
@click.option(
    "--profile",
    is_flag=True,
    help="Tell where the time goes, and write OUTPUT.trace.json for ui.perfetto.dev.",
)
@click.option("--json", "json_", is_flag=True, help="Say the result as JSON on stdout.")
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
    """Upscales the tissue of slides and writes slides.

    INPUT is a slide, or many, folders of slides, or .csv files with a column `slide`. What is done
    already is not done again, and what was stopped goes on by the same command.
    """
    is_one = len(sources) == 1 and not _is_many(sources[0])
    with console.status("loading"), sandboxed(sources[0]) if is_one else nullcontext():
        options = _options(**choices)
    common.refuse_idle(context, output)
    if (dry_run or profile) and not (is_one and dask is None):
        raise RefusedError("--dry-run and --profile look at one slide at a time, in this process.")
    if dry_run or profile:
        show = _estimated if dry_run else _profiled
        context.exit(show(sources[0], output, Workers(options), json_=json_))
    with workers(dask, options) as some:
        if is_one:
            context.exit(_upscaled(sources[0], output, some, json_=json_))
        context.exit(run_batch(sources, output or Path(), some, json_=json_))


def _options(
    scale: str,
    *,
    compression: str,
    quality: int,
    layout: str,
    ngff_version: str,
    consistent: bool,
    tolerance: float,
    **rest: Any,
) -> Options:
    from slidesr.pipeline.options import Options

    return Options(
        scale=int(scale),
        format=common.format_of(
            compression=compression, quality=quality, layout=layout, ngff_version=ngff_version
        ),
        tolerance=tolerance if consistent else None,
        **rest,
    )


def _is_many(source: Path) -> bool:
    """A folder or a list of slides."""
    if not source.is_dir():
        return source.suffix.lower() == ".csv"
    return not is_store(source)


def _upscaled(source: Path, output: Path | None, some: Workers, *, json_: bool) -> int:
    """Runs one slide; the exit code."""
    with opened(source, _in_folder(source, output, some.options), some) as job:
        summary = run_job(job, make=some.make)
    show_summary(summary, json_=json_)
    return summary.exit_code


def _profiled(source: Path, output: Path | None, some: Workers, *, json_: bool) -> int:
    """Runs one slide, and tells where the time went; the exit code."""
    from slidesr.pipeline.profile import Stopwatch

    with opened(source, _in_folder(source, output, some.options), some) as job:
        watch = Stopwatch(keeps_spans=True)
        summary = run_job(job, watch)
        show_summary(summary, json_=json_)
        show_profile(job, summary, watch)
    return summary.exit_code


def _estimated(source: Path, output: Path | None, some: Workers, *, json_: bool) -> int:
    """Only tells what one slide would become, and cost; the exit code."""
    with opened(source, _in_folder(source, output, some.options), some) as job:
        _show_estimate(job, json_=json_)
    return 0


def _in_folder(source: Path, output: Path | None, options: Options) -> Path | None:
    """The output in a folder that is there, where that is what the user names."""
    from slidesr.pipeline.job import default_output

    if output is not None and output.is_dir() and output.suffix != ".zarr":
        return default_output(source, options.scale, output)
    return output


def _show_estimate(job: Job, *, json_: bool) -> None:
    from slidesr.pipeline.run import estimate

    with console.status("trying one sample of the tissue"):
        cost = estimate(job)
    rows = {
        "output": as_typed(job.output),
        "width": job.plan.output.width,
        "height": job.plan.output.height,
        "levels": len(job.plan.levels),
        "mpp": job.output_mpp.mean if job.output_mpp else None,
        "model": job.model.spec.name,
        "device": job.model.engine.device,
        "precision": job.model.engine.precision,
        "tissue_share": job.tissue_px / job.plan.region.area,
        "estimated_seconds": cost.seconds,
        "estimated_bytes": cost.output_bytes,
        "estimated_memory_bytes": cost.memory_bytes,
    }
    if json_:
        as_json(rows)
        return
    facts(
        "Nothing was written. It would be:",
        {
            "output": as_typed(job.output),
            "size": f"{job.plan.output} px, {len(job.plan.levels)} levels,"
            f" about {bytes_text(cost.output_bytes)}",
            "pixel": f"{job.output_mpp} um" if job.output_mpp else "size unknown",
            "tissue": f"{rows['tissue_share']:.1%}",
            "model": f"{job.model.spec.name} on {rows['device']}, {rows['precision']}",
            "time": f"about {time_text(cost.seconds)}",
            "memory": f"about {bytes_text(cost.memory_bytes)}",
        },
    )
