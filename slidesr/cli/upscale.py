"""`slidesr upscale`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from slidesr.cli import options as common
from slidesr.cli.show import as_json, bytes_text, console, facts, progress_bar, stoppable, time_text
from slidesr.geometry import Box
from slidesr.output.compression import COMPRESSIONS, Compression

if TYPE_CHECKING:
    from slidesr.upscale import Job, Options, Progress, Summary

# A background pixel costs about this share of a tissue pixel; it only shapes the progress bar.
_BACKGROUND_COST = 0.02


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
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The new slide, .ome.tif or .tif. [default: NAME.x4.ome.tif in the current folder]",
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
    default=False,
    show_default=True,
    help="Mend what the network makes so that, shrunk, it is what the slide shows.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=4.0,
    show_default=True,
    help="Of --consistent, in grey levels: for JPEG's errors; 0 for slides without loss.",
)
@click.option("--compression", type=click.Choice(COMPRESSIONS), default="jpeg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG.")
@click.option(
    "--layout",
    type=click.Choice(["hybrid", "ome", "generic"]),
    default="hybrid",
    show_default=True,
    help="How levels are linked; hybrid opens everywhere.",
)
@common.device
@common.precision
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Tiles a batch on a GPU.")
@click.option(
    "--num-workers", type=click.IntRange(1), default=2, help="Threads to read, to encode."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Only say what it would do, and what it would cost.")
@click.option("--json", "json_", is_flag=True, help="Say the result as JSON on stdout.")
def upscale(
    source: Path,
    output: Path | None,
    scale: str,
    compression: str,
    quality: int,
    *,
    consistent: bool,
    tolerance: float,
    dry_run: bool,
    json_: bool,
    **choices: Any,
) -> None:
    """Upscales the tissue of a slide and writes a slide."""
    with console.status("loading"):
        from slidesr.upscale import Options

    options = Options(
        scale=int(scale),
        compression=Compression(compression, quality),
        tolerance=tolerance if consistent else None,
        **choices,
    )
    with opened(source, output, options) as job:
        if dry_run:
            _show_estimate(job, json_=json_)
        else:
            run_and_show(job, json_=json_)


@contextmanager
def opened(source: Path, output: Path | None, options: Options) -> Iterator[Job]:
    """A job that was checked; says what it is doing until then."""
    from slidesr.upscale import prepared

    with ExitStack() as stack:
        with console.status("looking at the slide"):
            job = stack.enter_context(prepared(source, output, options))
        yield job


def run_and_show(job: Job, *, json_: bool = False) -> None:
    """Runs a job under a progress bar and tells what came of it."""
    _show_summary(_run(job), json_=json_)


def _run(job: Job) -> Summary:
    from slidesr.upscale import upscale as run

    tissue_px = job.tissue_px
    total = tissue_px + _BACKGROUND_COST * (job.plan.region.area - tissue_px)
    started = time.monotonic()
    with progress_bar(job.output.name, total) as bar:

        def report(done: Progress) -> None:
            made_px = done.tissue_px - done.resumed_px
            rate = made_px / 1e6 / max(1e-9, time.monotonic() - started)
            bar.update(
                bar.task_ids[0],
                completed=done.tissue_px + _BACKGROUND_COST * (done.source_px - done.tissue_px),
                note=f"tissue {done.tissue_px / 1e6:.1f} of {tissue_px / 1e6:.1f} Mpx,"
                f" {rate:.3f} Mpx/s",
            )

        with stoppable():
            return run(job, report)


def _show_summary(summary: Summary, *, json_: bool) -> None:
    if json_:
        as_json(summary)
        return
    stages = ", ".join(f"{stage} {time_text(s)}" for stage, s in summary.stage_s.items())
    rate = (summary.tissue_px - summary.resumed_px) / 1e6 / summary.seconds
    facts(
        "",
        {
            "output": summary.output,
            "size": f"{summary.size} px (source {summary.source} px), {summary.levels} levels",
            "file": bytes_text(summary.output_bytes),
            "pixel": f"{summary.mpp} um (source {summary.source_mpp} um)"
            if summary.mpp
            else "size unknown",
            "tissue": f"{summary.tissue_share:.1%}, {summary.tissue_px / 1e6:.2f} Mpx"
            + (f" ({summary.resumed_px / 1e6:.2f} before)" if summary.resumed_px else ""),
            "model": f"{summary.model} on {summary.device}, {summary.precision}",
            "time": f"{time_text(summary.seconds)}, {rate:.3f} Mpx of tissue/s (busy: {stages})",
            "memory": f"{bytes_text(summary.peak_memory_bytes)} at most",
        },
    )
    console.print(Text("Synthetic: the details are the network's. Not for diagnosis.", "dim"))


def _show_estimate(job: Job, *, json_: bool) -> None:
    from slidesr.upscale import estimate

    with console.status("trying one sample of the tissue"):
        cost = estimate(job)
    rows = {
        "output": str(job.output),
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
            "output": job.output,
            "size": f"{job.plan.output} px, {len(job.plan.levels)} levels,"
            f" about {bytes_text(cost.output_bytes)}",
            "pixel": f"{job.output_mpp} um" if job.output_mpp else "size unknown",
            "tissue": f"{rows['tissue_share']:.1%}",
            "model": f"{job.model.spec.name} on {rows['device']}, {rows['precision']}",
            "time": f"about {time_text(cost.seconds)}",
            "memory": f"about {bytes_text(cost.memory_bytes)}",
        },
    )
