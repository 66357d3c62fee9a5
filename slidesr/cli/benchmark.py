"""`slidesr benchmark`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidesr.cli import options as common
from slidesr.cli.show import console, line, progress_bar, stoppable
from slidesr.errors import RefusedError, SlidesrError, printable

if TYPE_CHECKING:
    from slidesr.benchmark.pairs import ImagePair
    from slidesr.benchmark.results import Results
    from slidesr.benchmark.suite import Comparison

_SCALES = (2, 4, 8, 16)


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
        if not scales or not set(scales) <= set(_SCALES):
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
    help="Where the report and the tables go; a stopped comparison goes on from there.",
)
@click.option("--scales", "--scale", type=_ScalesType(), help="Some of 2,4,8,16. [default: 4]")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A shipped name, a file, or NAME@0.5 for --perception 0.5; repeat it. [default: shipped]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Also each model made consistent to so many grey levels (upscale --consistent).",
)
@click.option("--lr", "low", type=click.Path(path_type=Path), help="Low resolution of true pairs.")
@click.option("--hr", "high", type=click.Path(path_type=Path), help="Their high resolution.")
@click.option(
    "--degradation",
    type=click.Choice(["bicubic", "scanner"]),
    default="bicubic",
    show_default=True,
    help="How the low resolution is made: antialiased bicubic, or blur and noise as of a scanner.",
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
    help="Of slides: so many patches of 256 px of each.",
)
@click.option("--level", type=click.IntRange(0), default=0, help="Of slides: the high resolution.")
@click.option(
    "--downstream",
    is_flag=True,
    help="Also count nuclei kept, invented and lost, and ask a tumour/normal classifier.",
)
@click.option(
    "--labelled",
    type=click.Path(path_type=Path),
    help="Patches labelled tumor and normal that teach the classifier. [default: DATA's]",
)
@click.option(
    "--resnext101",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights of torchvision's resnext101_32x8d: the classifier judges by it.",
)
@click.option(
    "--vgg19",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights of torchvision's vgg19: one more perceptual distance.",
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
    help="In a checkout: put the scores into headers, cards and tables of the shipped models.",
)
@click.option("--json", "json_", is_flag=True, help="Say all results as JSON on stdout.")
def benchmark(
    data: Path | None,
    output: Path,
    scales: tuple[int, ...] | None,
    models: tuple[str, ...],
    *,
    tolerance: float | None,
    low: Path | None,
    high: Path | None,
    degradation: str,
    jpeg: int | None,
    per_slide: int,
    level: int,
    downstream: bool,
    labelled: Path | None,
    resnext101: Path | None,
    vgg19: Path | None,
    author_metrics: bool,
    device: str,
    precision: str,
    overwrite: bool,
    update_cards: bool,
    json_: bool,
) -> None:
    """Compares models with each other and with what learns nothing, and writes a report.

    DATA is a folder of images, a manifest (CSV), a slide or a folder of slides; or give two folders
    of true pairs with --lr and --hr.
    """
    with console.status("loading"):
        from slidesr.benchmark.export import markdown, refuse_other_results
        from slidesr.benchmark.export import update_cards as write_cards
        from slidesr.benchmark.methods import methods_for, requested_models
        from slidesr.benchmark.pairs import find_pairs
        from slidesr.benchmark.suite import Comparison, ComparisonOptions
        from slidesr.model.device import Engine
        from slidesr.model.weights import models_folder

    pairs = _pairs(data, low, high, partial(_patches, output / "patches", per_slide, level))
    own = pairs[0].scale
    if own and scales not in (None, (own,)):
        raise RefusedError(f"{high}: is {own} times {low}. Leave out --scales.")
    options = ComparisonOptions(
        (own,) if own else scales or (4,),
        "own" if own else degradation,
        jpeg,
        downstream=downstream,
        by_author=author_metrics,
    )
    if resnext101 and not downstream:
        raise RefusedError("--resnext101 is of use with --downstream only")
    wanted = requested_models(models, options.scales, tolerance)
    comparison = Comparison(
        pairs,
        cache(partial(methods_for, wanted, Engine.choose(device, precision))),
        options,
        find_pairs(labelled) if labelled else (),
        vgg19,
        resnext101,
    )
    if not overwrite:
        refuse_other_results(output, comparison.protocol)
    results = _compared(comparison, output)
    if update_cards:
        write_cards(results, models_folder(), models_folder().parent / "README.md")
    lines = map(printable, markdown(results).split("\n"))
    click.echo(results.to_json() if json_ else "\n".join(lines))
    line(f"report: {output / 'report.html'}")


def _pairs(
    data: Path | None, low: Path | None, high: Path | None, cut: Callable[[Path], Path]
) -> list[ImagePair]:
    from slidesr.benchmark.pairs import find_pairs, match_pairs
    from slidesr.patches.sources import are_slides

    if low and high and not data:
        return match_pairs(low, high)
    if low or high or not data:
        raise RefusedError("Give DATA, or both --lr and --hr.")
    return find_pairs(cut(data) if are_slides(data) else data)


def _patches(folder: Path, per_slide: int, level: int, slides: Path) -> Path:
    """Cuts patches of tissue from slides; labelled where there are annotations beside them."""
    from slidesr.patches.make import make_patches
    from slidesr.patches.options import PatchOptions
    from slidesr.patches.sources import find_material

    options = PatchOptions(level=level, per_slide=per_slide, split=(1.0, 0.0, 0.0))
    material = find_material([slides])
    with console.status("cutting patches of the slides"):
        summary = make_patches(material, folder, options)
    if summary.failed:
        raise SlidesrError(f"{len(summary.failed)} slides failed: {', '.join(summary.failed)}")
    return folder / "train"


def _compared(comparison: Comparison, output: Path) -> Results:
    from slidesr.benchmark.cases import cases
    from slidesr.benchmark.export import write_results
    from slidesr.benchmark.results import ResultStore
    from slidesr.benchmark.suite import compare

    with progress_bar("images", 1.0) as bar:

        def report(done: int, total: int) -> None:
            bar.update(bar.task_ids[0], completed=done, total=total, note=f"{done} of {total}")

        with stoppable(), ResultStore(output, comparison.identity()) as store:
            results = compare(comparison, store, report)
            write_results(output, results, cases(comparison, results))
            store.discard()
    return results
