"""`slidesr train`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress

from slidesr.cli.interrupts import asking
from slidesr.cli.show import console, inert, progress_bar, stoppable, time_text
from slidesr.errors import printable

if TYPE_CHECKING:
    from slidesr.api.training import Plan
    from slidesr.train.encoder.training import EncoderProgress
    from slidesr.train.loop import TrainingProgress


@click.command()
@click.argument("recipe", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Training images.")
@click.option("--valid", type=click.Path(path_type=Path), help="Validation images.")
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
    "--finish-now",
    is_flag=True,
    help="End the run that stopped in OUTPUT: cooldown, weights, scores.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CHECKPOINT",
    help="Write the weights and the card of a checkpoint, without training.",
)
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
@click.option("--patches", type=click.IntRange(1), help="Length of the last run in patches.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Length of the last run in this call; its learning rate falls within it.",
)
@click.option("--batch", type=click.IntRange(1), help="Patches a step.")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate."
)
@click.option("--validate-every", type=click.IntRange(1), help="Patches between validations.")
@click.option("--start", help="Initial weights: a shipped name, a recipe's or a file.")
@click.option(
    "--vgg19",
    type=click.Path(path_type=Path),
    help="VGG19 weights from torchvision, for recipes with a vgg19_weight.",
)
@click.option(
    "--suite",
    type=click.Choice(["paper"]),
    help="Train and score the networks of a comparison, instead of a RECIPE.",
)
@click.option(
    "--test", type=click.Path(path_type=Path), help="Images that score the networks of --suite."
)
@click.option(
    "--labelled",
    type=click.Path(path_type=Path),
    help="Labelled patches: a classifier taught by them judges what --suite upscales.",
)
@click.option(
    "--only",
    default="*",
    show_default=True,
    metavar="PATTERN",
    help="Those runs of --suite whose names fit, such as '*-x4*'.",
)
@click.option("--no-score", is_flag=True, help="Write the weights without scoring them.")
def train(
    recipe: str | None,
    data: Path | None,
    valid: Path | None,
    output: Path,
    *,
    resume: bool,
    finish_now: bool,
    export: Path | None,
    from_scratch: bool,
    without_critic: bool,
    minutes: float | None,
    vgg19: Path | None,
    no_score: bool,
    suite: str | None,
    test: Path | None,
    labelled: Path | None,
    only: str,
    **changes: Any,
) -> None:
    """Train a model by a RECIPE, score it, and write weights and a model card.

    RECIPE is a TOML file or the name of a shipped recipe; --patches, --batch, --learning-rate,
    --validate-every and --start override it. Each folder inside DATA or VALID is a data set; DATA
    may hold a manifest.csv with their licences. For several GPUs, use torchrun.

    If RECIPE starts from weights that are neither shipped nor in OUTPUT, their recipe is trained
    first, in a folder of OUTPUT.

    --suite paper trains and scores all networks of the paper's comparison and writes their tables;
    the same command goes on with what is missing, in several processes if you like.

    Ctrl-C saves and stops. --resume goes on, also with more --patches if the learning rate has not
    begun to fall. SIGUSR1 ends a run early, cooldown included, as --finish-now does afterwards.
    """
    with console.status("loading"):
        from slidesr.api.training import (
            PlanChanges,
            TrainingOptions,
            export_checkpoint,
            train_model,
            training_plan,
        )
        from slidesr.train.loop import Sources
        from slidesr.train.pace import Control

    if suite or test or labelled or only != "*":
        if recipe or not (suite and data and valid and test):
            raise click.UsageError("--suite needs --data, --valid and --test, and no RECIPE")
        others = (
            resume,
            finish_now,
            export,
            from_scratch,
            without_critic,
            minutes,
            vgg19,
            no_score,
        )
        if any(others) or any(changes.values()):
            raise click.UsageError(
                "--suite takes no options of a single run: its budget is one for all"
            )
        _train_suite(data, valid, test, output, labelled, only)
        return
    if export:
        if recipe or data:
            raise click.UsageError(
                "--export takes all it needs from CHECKPOINT: no RECIPE or --data"
            )
        click.echo(printable(str(export_checkpoint(export, output, None if no_score else valid))))
        return
    if not (recipe and data and valid):
        raise click.UsageError("RECIPE, --data and --valid are needed")
    plan = training_plan(recipe, PlanChanges(without_critic=without_critic, **changes))
    options = TrainingOptions(resume or finish_now, from_scratch, score=not no_score)
    control = Control(minutes or math.inf)
    if finish_now:
        control.finish.set()
    with (
        stoppable("--resume goes on from the last checkpoint"),
        asking(stop=control.stop.set, finish=control.finish.set),
        progress_bar(plan.name, plan.patches) as bar,
    ):
        path = train_model(
            plan,
            Sources(data, valid, output, vgg19),
            options,
            control=control,
            on_run=partial(_begin, bar),
            on_progress=partial(_show, bar),
        )
    if path is not None:
        click.echo(printable(str(path)))


def _train_suite(
    data: Path, valid: Path, test: Path, output: Path, labelled: Path | None, only: str
) -> None:
    from slidesr.api.paper_suite import SuiteRequest, SuiteWatch, train_paper_suite
    from slidesr.train.pace import Control

    control = Control()
    with (
        stoppable("the same command goes on"),
        asking(stop=control.stop.set),
        progress_bar("suite", 1) as bar,
    ):
        watch = SuiteWatch(control, partial(_begin, bar), partial(_show, bar))
        path = train_paper_suite(SuiteRequest(data, valid, test, output, labelled, only), watch)
    click.echo(printable(str(path)))


def _begin(bar: Progress, run: Plan) -> None:
    bar.reset(bar.task_ids[0], description=printable(run.name), total=run.patches)


def _show(bar: Progress, now: TrainingProgress | EncoderProgress) -> None:
    note = time_text(now.seconds)
    bar.update(bar.task_ids[0], completed=now.patches, total=now.end, note=note)
    rate = f"{now.patches_per_s:.0f}/s"
    bar.console.print(inert(f"{now.patches:>9,} patches ({rate})  {now.as_line()}"))
