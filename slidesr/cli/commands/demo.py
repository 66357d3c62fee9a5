"""`slidesr demo`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from slidesr.cli.show import console, running_bar, stoppable
from slidesr.cli.show_upscale import show_summary
from slidesr.errors import printable
from slidesr.pipeline.options import Options
from slidesr.runtime.sandbox import sandboxed


@click.command()
@click.argument("slide", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the result.",
)
def demo(slide: Path | None, output: Path) -> None:
    """Upscale a sample slide (or SLIDE) by 4 and draw it beside bicubic.

    The sample is an image that comes with scikit-image, so nothing is downloaded. It is not H&E,
    which the networks are trained on, so the fidelity weights are used: they invent least.
    """
    with console.status("loading"), sandboxed(slide) if slide else nullcontext():
        from slidesr import api
        from slidesr.pipeline.sample import draw_comparison, write_sample_slide

    output.mkdir(parents=True, exist_ok=True)
    source = slide or write_sample_slide(output / "sample.tif")
    result = output / f"{source.stem}.x4.ome.tif"
    options = Options(overwrite=True, perception=None if slide else 0.0)
    with stoppable(), running_bar(source.name) as report:
        summary = api.upscale(source, result, options=options, on_progress=report)
    show_summary(summary)
    picture = draw_comparison(source, result, output / "before-after.png")
    click.echo(printable(f"The upscaled slide is {result}: open it in QuPath or OpenSlide."))
    click.echo(printable(f"Bicubic beside slidesr: {picture}"))
