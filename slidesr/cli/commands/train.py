"""`slidesr train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress

from slidesr.cli.show import console, inert, progress_bar, stoppable, time_text
from slidesr.errors import printable

if TYPE_CHECKING:
    from slidesr.api.training import Plan
    from slidesr.train.encoder.training import EncoderProgress
    from slidesr.train.loop import TrainingProgress


@click.command()
@click.argument("recipe")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Training images.")
@click.option("--valid", required=True, type=click.Path(path_type=Path), help="Validation images.")
@click.option(
    "-o",
    "--output",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the checkpoint, the log, the weights and their card.",
)
@click.option("--resume", is_flag=True, help="Resume the runs that stopped in OUTPUT, if any.")
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Train also what RECIPE starts from, in OUTPUT, even if its weights are shipped.",
)
@click.option(
    "--without-critic",
    is_flag=True,
    help="Leave out critic, adversarial and feature-matching losses, to see what they bring.",
)
@click.option(
    "--patches",
    type=click.IntRange(1),
    help="Number of training patches of the last run; overrides the recipe.",
)
@click.option(
    "--start",
    help="Initial weights: a shipped name, a recipe's or a file; overrides the recipe.",
)
@click.option(
    "--vgg19",
    type=click.Path(path_type=Path),
    help="VGG19 weights from torchvision, for recipes with a vgg19_weight.",
)
@click.option("--no-score", is_flag=True, help="Write the weights without scoring them.")
def train(
    recipe: str,
    data: Path,
    valid: Path,
    output: Path,
    *,
    resume: bool,
    from_scratch: bool,
    without_critic: bool,
    patches: int | None,
    start: str | None,
    vgg19: Path | None,
    no_score: bool,
) -> None:
    """Train a model by a RECIPE, score it, and write weights and a model card.

    RECIPE is a TOML file or the name of a shipped recipe. Each folder inside DATA or VALID is a
    data set; DATA may hold a manifest.csv with their licences. For several GPUs, use torchrun.

    If RECIPE starts from weights that are neither shipped nor in OUTPUT, their recipe is trained
    first, in a folder of OUTPUT.
    """
    with console.status("loading"):
        from slidesr.api.training import TrainingOptions, train_model, training_plan
        from slidesr.train.loop import Sources

    plan = training_plan(recipe, patches=patches, start=start, ablate_critic=without_critic)
    sources = Sources(data, valid, output, vgg19)
    options = TrainingOptions(resume=resume, from_scratch=from_scratch, score=not no_score)
    with (
        stoppable("--resume resumes from the last validation"),
        progress_bar(plan.name, plan.patches) as bar,
    ):

        def begin(run: Plan) -> None:
            bar.reset(bar.task_ids[0], description=printable(run.name), total=run.patches)

        def report(now: TrainingProgress | EncoderProgress) -> None:
            _show(bar, now)

        path = train_model(plan, sources, options, on_run=begin, on_progress=report)
    if path is not None:
        click.echo(printable(str(path)))


def _show(bar: Progress, now: TrainingProgress | EncoderProgress) -> None:
    bar.update(bar.task_ids[0], completed=now.patches, note=time_text(now.seconds))
    rate = f"{now.patches / max(1e-9, now.seconds):.0f}/s"
    bar.console.print(inert(f"{now.patches:>9,} patches ({rate})  {now.as_line()}"))
