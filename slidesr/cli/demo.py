"""`slidesr demo`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from slidesr.cli.run import opened, run_job, show_summary
from slidesr.cli.show import console
from slidesr.errors import printable
from slidesr.pipeline.executor import Workers
from slidesr.runtime.sandbox import sandboxed


@click.command()
@click.argument("slide", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for the result.",
)
def demo(slide: Path | None, output: Path) -> None:
    """Upscales a sample slide (or SLIDE) by 4 and draws it beside bicubic.

    The sample is made of an image that comes with scikit-image, so nothing is downloaded. It is no
    H&E, which the networks know, so the fidelity weights make it: those invent least.
    """
    with console.status("loading"), sandboxed(slide) if slide else nullcontext():
        from slidesr.pipeline.options import Options
        from slidesr.pipeline.sample import draw_comparison, write_sample_slide

    output.mkdir(parents=True, exist_ok=True)
    source = slide or write_sample_slide(output / "sample.tif")
    result = output / f"{source.stem}.x4.ome.tif"
    options = Options(overwrite=True, perception=None if slide else 0.0)
    with opened(source, result, Workers(options)) as job:
        show_summary(run_job(job))
        picture = draw_comparison(job.frame, result, output / "before-after.png")
    click.echo(printable(f"The upscaled slide is {result}: open it in QuPath or OpenSlide."))
    click.echo(printable(f"Bicubic beside slidesr: {picture}"))
