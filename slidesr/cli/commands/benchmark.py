"""`slidesr benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slidesr.cli import options as common
from slidesr.cli.show import console, line, progress_bar, stoppable
from slidesr.errors import printable
from slidesr.pipeline.options import SCALES


class _ScalesType(click.ParamType[tuple[int, ...]]):
    name = "2,4,8,16"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            scales = tuple(sorted({int(text) for text in value.split(",")}))
        except ValueError:
            scales = ()
        if not scales or not set(scales) <= set(SCALES):
            self.fail(f"{value!r} is not some of {self.name}", param, ctx)
        return scales


@click.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="benchmark",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report and the tables; a stopped comparison resumes there.",
)
@click.option(
    "--scales", "--scale", type=_ScalesType(), help="Scales to compare, such as 2,4.  [default: 4]"
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A shipped name, a file, or NAME@0.5 for --perception 0.5; repeat it. [default: shipped]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Also compare each model with this --tolerance, in grey levels (see upscale).",
)
@click.option(
    "--ensemble",
    is_flag=True,
    help="Also compare each slidesr model with --ensemble (see upscale).",
)
@click.option("--lr", "low", type=click.Path(path_type=Path), help="Low resolution of true pairs.")
@click.option("--hr", "high", type=click.Path(path_type=Path), help="Their high resolution.")
@click.option(
    "--degradation",
    type=click.Choice(["bicubic", "scanner"]),
    default="bicubic",
    show_default=True,
    help="How images are reduced: antialiased bicubic, or blur and noise like a scanner's.",
)
@click.option(
    "--jpeg",
    type=click.IntRange(1, 100),
    help="Compress the low resolution at this quality first, as slides are stored.",
)
@click.option(
    "--per-slide",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Patches of 256 px to cut from each slide.",
)
@click.option(
    "--level",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Level of slides that is the high resolution.",
)
@click.option("--nuclei", is_flag=True, help="Also count nuclei kept, invented and lost.")
@click.option(
    "--downstream",
    is_flag=True,
    help="Also count nuclei, and fine-tune classifiers of tumor/normal or malignant/benign.",
)
@click.option(
    "--labelled",
    type=click.Path(path_type=Path),
    help="Labelled patches that teach the classifiers.  [default: DATA's]",
)
@click.option(
    "--resnext101",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="torchvision's resnext101_32x8d weights: one more judge, and the classifier to fine-tune.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Classifiers to fine-tune from different seeds, whose figures are averaged.  [default: 5]",
)
@click.option(
    "--vgg19",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="torchvision's vgg19 weights: one more judge.",
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="ARCHITECTURE=FILE",
    help="One more judge, of torchvision or timm: timm/convnext_tiny=FILE; repeat it.",
)
@click.option(
    "--author-metrics",
    is_flag=True,
    help="Also PSNR, MS-SSIM and QILV as the author of WA-SRGAN computes them.",
)
@common.device
@common.precision
@click.option("--overwrite", is_flag=True, help="Replace the results of another comparison.")
@click.option(
    "--update-cards",
    is_flag=True,
    help="In a checkout: write the scores into headers and cards of shipped models, and tables.",
)
@common.json_output
def benchmark(
    data: Path | None,
    output: Path,
    *,
    overwrite: bool,
    update_cards: bool,
    json_: bool,
    **choices: Any,
) -> None:
    """Compare models with each other and with interpolation, and write a report.

    DATA is a folder of images, a manifest (CSV), a slide or a folder of slides. For true pairs give
    two folders with --lr and --hr instead.
    """
    with console.status("loading"):
        from slidesr.api.comparison import ComparisonRequest, compare_models
        from slidesr.benchmark.export import markdown

    request = ComparisonRequest(data, **choices)
    with stoppable(), progress_bar("images", 1.0) as bar:

        def report(done: int, total: int) -> None:
            note = f"{done} of {total}"
            bar.update(
                bar.task_ids[0], completed=done, total=total, note=note, description="images"
            )

        def report_training(done: int, total: int) -> None:
            note = f"{done} of {total}"
            bar.update(
                bar.task_ids[0], completed=done, total=total, note=note, description="classifiers"
            )

        results = compare_models(
            request,
            output,
            overwrite=overwrite,
            update_shipped=update_cards,
            on_progress=report,
            on_training=report_training,
        )
    lines = map(printable, markdown(results).split("\n"))
    click.echo(results.to_json() if json_ else "\n".join(lines))
    line(f"report: {output / 'report.html'}")
