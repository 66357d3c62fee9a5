"""`slidesr train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidesr.cli.show import console, inert, progress_bar, stoppable, time_text
from slidesr.errors import RefusedError, printable

if TYPE_CHECKING:
    from slidesr.train.encoder.training import EncoderRecipe
    from slidesr.train.loop import Sources, TrainingProgress
    from slidesr.train.recipe import Recipe


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
    help="Where the checkpoint, the log, the weights and their card go.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that stopped here, if any.")
@click.option(
    "--patches", type=click.IntRange(1), help="Number of training patches; overrides the recipe."
)
@click.option("--no-score", is_flag=True, help="Write the weights without scoring them.")
@click.option("--start", help="Weights to begin with, a shipped name or a file, for the recipe's.")
@click.option(
    "--vgg19",
    type=click.Path(path_type=Path),
    help="VGG19's weights as torchvision gives them, for recipes that weigh them.",
)
def train(
    recipe: str,
    data: Path,
    valid: Path,
    output: Path,
    *,
    resume: bool,
    patches: int | None,
    start: str | None,
    vgg19: Path | None,
    no_score: bool,
) -> None:
    """Trains by a RECIPE, scores the result, and writes weights and a model card.

    RECIPE is a TOML file or the name of one that comes with slidesr. A folder inside DATA or VALID
    is a data set; DATA may hold a manifest.csv with their terms. Several GPUs: run it by torchrun.
    """
    with console.status("loading"):
        from slidesr.train.checkpoint import refuse_mixing_runs
        from slidesr.train.encoder.training import EncoderRecipe
        from slidesr.train.loop import Sources
        from slidesr.train.recipe import Recipe, find_recipe, is_for_encoder, recipe_from_toml

    path = find_recipe(recipe)
    kind: type[Recipe | EncoderRecipe] = EncoderRecipe if is_for_encoder(path) else Recipe
    plan = recipe_from_toml(kind, path)
    if patches:
        every = min(plan.validate_every, patches)
        try:
            plan = replace(plan, patches=patches, validate_every=every)
        except ValueError as error:
            raise RefusedError(f"--patches {patches}: {error}") from error
    if start and isinstance(plan, Recipe):
        plan = replace(plan, start=start)
    if not resume:
        refuse_mixing_runs(output)
    sources = Sources(data, valid, output, vgg19)
    with stoppable("--resume goes on from the last validation"):
        if isinstance(plan, EncoderRecipe):
            _train_encoder(plan, sources)
        else:
            _train_generator(plan, sources, scored=not no_score)


def _train_generator(plan: Recipe, sources: Sources, *, scored: bool) -> None:
    from slidesr.benchmark.methods import classical, method_from_model
    from slidesr.benchmark.pairs import find_pairs
    from slidesr.benchmark.suite import Comparison, ComparisonOptions, mean_scores
    from slidesr.model.card import write_model
    from slidesr.model.model import Model
    from slidesr.train.distributed import joined_process_group
    from slidesr.train.header import header_for
    from slidesr.train.loop import train as run

    with joined_process_group() as world, progress_bar(plan.name, plan.patches) as bar:

        def report(now: TrainingProgress) -> None:
            gains = ", ".join(
                f"{data} {score['psnr_db']:.2f} dB"
                f" ({score['psnr_db'] - now.bicubic[data]['psnr_db']:+.2f}),"
                f" SSIM {score['ssim']:.4f} ({score['ssim'] - now.bicubic[data]['ssim']:+.4f})"
                for data, score in now.scores.items()
            )
            losses = ", ".join(f"{name} {value:.5f}" for name, value in now.losses.items())
            bar.update(bar.task_ids[0], completed=now.patches, note=time_text(now.seconds))
            rate = f"{now.patches / now.seconds:.0f}/s"
            bar.console.print(inert(f"{now.patches:>9,} patches ({rate})  {losses}  {gains}"))

        trained = run(plan, sources, world, report)
    if not world.is_first:
        return
    spec = header_for(plan, sources.data, trained)
    if not scored:
        click.echo(printable(str(write_model(sources.out, spec, {}, trained.generator))))
        return
    made = method_from_model(Model(spec, trained.generator, ""))
    comparison = Comparison(
        find_pairs(sources.valid),
        lambda scale: [*classical(scale)[1:], made],
        ComparisonOptions(scales=(plan.generator.scale,)),
    )
    with console.status("scoring"):
        scores = mean_scores(comparison, lambda done, total: None)
    click.echo(printable(str(write_model(sources.out, spec, scores, trained.generator))))


def _train_encoder(plan: EncoderRecipe, sources: Sources) -> None:
    from slidesr.train.encoder.export import write_encoder
    from slidesr.train.encoder.scores import score_encoder
    from slidesr.train.encoder.training import EncoderProgress, train_encoder

    with progress_bar(plan.name, plan.patches) as bar:

        def report(now: EncoderProgress) -> None:
            bar.update(bar.task_ids[0], completed=now.patches, note=time_text(now.seconds))
            bar.console.print(
                f"{now.patches:>9,} patches  loss {now.loss:.3f}, partner found {now.right:.0%};"
                f" of new images {now.scores.retrieval:.0%}"
            )

        trained = train_encoder(plan, sources.data, sources.valid, sources.out, report)
    with console.status("scoring"):
        scores = score_encoder(trained.encoder, sources.valid, plan.views)
    made = write_encoder(sources.out, plan, sources.data, trained, scores)
    click.echo(printable(str(made)))
