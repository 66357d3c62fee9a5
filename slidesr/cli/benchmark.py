"""`slidesr benchmark`."""

from __future__ import annotations

from pathlib import Path

import click

from slidesr.cli.show import as_json, progress_bar


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--scale", type=click.Choice(["2", "4", "8", "16"]), default="4", show_default=True)
@click.option("--model", "names", multiple=True, help="May be given more than once.")
@click.option(
    "--jpeg",
    type=click.IntRange(1, 100),
    help="Compress the low resolution at this quality first, as slides are stored.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto")
@click.option("--json", "json_", is_flag=True, help="Say the scores as JSON on stdout.")
def benchmark(
    data: Path,
    scale: str,
    names: tuple[str, ...],
    jpeg: int | None,
    device: str,
    precision: str,
    *,
    json_: bool,
) -> None:
    """Compares models with bicubic on a folder of images: PSNR, SSIM, MS-SSIM, QILV."""
    from slidesr.benchmark.suite import score_folder
    from slidesr.card import score_table
    from slidesr.model import Engine, load_model
    from slidesr.weights import default_model

    engine = Engine.choose(device, precision)
    models = [load_model(name, engine) for name in names or (default_model(int(scale)),)]
    with progress_bar("images", 1.0) as bar:

        def report(done: int, total: int) -> None:
            bar.update(bar.task_ids[0], completed=done, total=total, note=f"{done} of {total}")

        scores = score_folder(data, int(scale), models, report, jpeg_quality=jpeg)
    if json_:
        as_json(scores)
    else:
        click.echo(score_table(scores))
