"""`slidesr train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidesr.cli.show import console, progress_bar, time_text

if TYPE_CHECKING:
    from slidesr.train.loop import Progress


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Training images.")
@click.option("--valid", required=True, type=click.Path(path_type=Path), help="Validation images.")
@click.option(
    "-o",
    "--output",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the checkpoint, the weights and their card go; a stopped run goes on from there.",
)
def train(recipe: Path, data: Path, valid: Path, output: Path) -> None:
    """Trains a generator by a recipe, scores it, and writes its weights and model card.

    A folder inside DATA or VALID is a data set; DATA may hold a manifest.csv with their terms.
    """
    with console.status("loading"):
        from slidesr.benchmark import score_folder
        from slidesr.model import Model
        from slidesr.train.finish import described, write_model
        from slidesr.train.loop import train as run
        from slidesr.train.recipe import load_recipe

    plan = load_recipe(recipe)
    with progress_bar(plan.name, plan.patches) as bar:

        def report(now: Progress) -> None:
            gains = ", ".join(
                f"{name} {now.psnr_db[name]:.2f} dB ({now.psnr_db[name] - bicubic:+.2f})"
                for name, bicubic in now.bicubic_psnr_db.items()
            )
            bar.update(bar.task_ids[0], completed=now.patches, note=time_text(now.seconds))
            bar.console.print(f"{now.patches:>9,} patches  loss {now.loss:.5f}  {gains}")

        trained = run(plan, data, valid, output, report)
    spec = described(plan, data, patches=trained.patches, seconds=trained.seconds)
    with console.status("scoring"):
        scores = score_folder(
            valid,
            plan.generator.scale,
            [Model(spec, trained.generator, "")],
            lambda done, total: None,
        )
    click.echo(write_model(output, spec, scores, trained.generator))
