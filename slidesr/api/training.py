"""Training: a recipe read, a run, its scores, weights and model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from slidesr.benchmark.methods import classical, of_model
from slidesr.benchmark.pairs import find_pairs
from slidesr.benchmark.suite import Comparison, ComparisonOptions, mean_scores
from slidesr.errors import RefusedError
from slidesr.model.card import write_model
from slidesr.model.model import Model
from slidesr.train.checkpoint import refuse_mixing_runs
from slidesr.train.distributed import joined_processes
from slidesr.train.encoder.export import write_encoder
from slidesr.train.encoder.scores import score_encoder
from slidesr.train.encoder.training import EncoderProgress, EncoderRecipe, train_encoder
from slidesr.train.header import header_for
from slidesr.train.loop import Sources, TrainingProgress, train
from slidesr.train.recipe import Recipe, any_recipe_from_toml, find_recipe

Plan = Recipe | EncoderRecipe


def training_plan(recipe: str, *, patches: int | None = None, start: str | None = None) -> Plan:
    """Reads a recipe by its shipped name or its file, with other patches or a start if given.

    Raises RefusedError where it is no recipe, or the choices do not fit it.
    """
    plan: Plan = any_recipe_from_toml(find_recipe(recipe), EncoderRecipe)
    if patches:
        every = min(plan.validate_every, patches)
        try:
            plan = replace(plan, patches=patches, validate_every=every)
        except ValueError as error:
            raise RefusedError(f"--patches {patches}: {error}") from error
    return replace(plan, start=start) if start and isinstance(plan, Recipe) else plan


def train_model(
    plan: Plan,
    sources: Sources,
    *,
    resume: bool = False,
    score: bool = True,
    on_progress: Callable[[TrainingProgress | EncoderProgress], None] = lambda now: None,
) -> Path | None:
    """Trains a generator or an encoder; returns its weights' path, with a model card beside it.

    `resume` continues a run that stopped in `sources.out`. `score` compares the generator with
    bicubic on the validation images. Under torchrun only the first process returns a path.
    """
    if not resume:
        refuse_mixing_runs(sources.out)
    if isinstance(plan, EncoderRecipe):
        trained = train_encoder(plan, sources.data, sources.valid, sources.out, on_progress)
        scores = score_encoder(trained.encoder, sources.valid, plan.views)
        return write_encoder(sources.out, plan, sources.data, trained, scores)
    return _trained_generator(plan, sources, on_progress, score=score)


def _trained_generator(
    plan: Recipe, sources: Sources, on_progress: Callable[[TrainingProgress], None], *, score: bool
) -> Path | None:
    with joined_processes() as world:
        trained = train(plan, sources, world, on_progress)
    if not world.is_first:
        return None
    spec = header_for(plan, sources.data, trained)
    if not score:
        return write_model(sources.out, spec, {}, trained.generator)
    method = of_model(Model(spec, trained.generator, ""))
    comparison = Comparison(
        find_pairs(sources.valid),
        lambda scale: [*classical(scale)[1:], method],
        ComparisonOptions(scales=(plan.generator.scale,)),
    )
    scores = mean_scores(comparison, lambda done, total: None)
    return write_model(sources.out, spec, scores, trained.generator)
