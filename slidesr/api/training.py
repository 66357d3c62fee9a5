"""Training: a recipe read, its chain of runs, scores, weights and model cards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slidesr.benchmark.methods import classical, of_model
from slidesr.benchmark.pairs import find_pairs
from slidesr.benchmark.suite import Comparison, ComparisonOptions, mean_scores
from slidesr.errors import RefusedError
from slidesr.model.card import write_model
from slidesr.model.model import Model
from slidesr.model.weights import ModelSpec
from slidesr.train.chain import Run, runs_to
from slidesr.train.checkpoint import refuse_mixing_runs
from slidesr.train.distributed import joined_processes
from slidesr.train.encoder.export import write_encoder
from slidesr.train.encoder.scores import score_encoder
from slidesr.train.encoder.training import EncoderProgress, EncoderRecipe, train_encoder
from slidesr.train.header import header_for
from slidesr.train.initial_weights import spec_of_start
from slidesr.train.loop import Sources, Trained, TrainingProgress, train
from slidesr.train.objective import perceptual_network
from slidesr.train.recipe import Recipe, any_recipe_from_toml, find_recipe, without_critic

_log = logging.getLogger(__name__)

Plan = Recipe | EncoderRecipe


@dataclass(frozen=True)
class TrainingOptions:
    """How a plan is carried out."""

    resume: bool = False  # continue the runs that stopped in the output folder
    from_scratch: bool = False  # train what the recipe starts from, even if it is shipped
    score: bool = True  # compare the generator with bicubic on the validation images


_DEFAULTS = TrainingOptions()


def training_plan(
    recipe: str,
    *,
    patches: int | None = None,
    start: str | None = None,
    ablate_critic: bool = False,
) -> Plan:
    """Reads a recipe by its shipped name or its file, with other patches or a start if given.

    `ablate_critic` leaves the critic and its losses out. Raises RefusedError where it is no recipe,
    or the choices do not fit it.
    """
    plan: Plan = any_recipe_from_toml(find_recipe(recipe), EncoderRecipe)
    if patches:
        every = min(plan.validate_every, patches)
        try:
            plan = replace(plan, patches=patches, validate_every=every)
        except ValueError as error:
            raise RefusedError(f"--patches {patches}: {error}") from error
    if isinstance(plan, EncoderRecipe):
        if start or ablate_critic:
            raise RefusedError(f"{plan.name} is an encoder: it has neither start nor critic")
        return plan
    if start:
        plan = replace(plan, start=start)
    return without_critic(plan) if ablate_critic else plan


def train_model(
    plan: Plan,
    sources: Sources,
    options: TrainingOptions = _DEFAULTS,
    *,
    on_run: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[TrainingProgress | EncoderProgress], None] = lambda now: None,
) -> Path | None:
    """Trains a generator or an encoder; returns its weights' path, with a model card beside it.

    Weights that a generator starts from and that are not there are trained first, in folders of
    their own in `sources.out`, without scores; see `slidesr.train.chain`. `on_run` is called as
    each run begins. Under torchrun only the first process returns a path.
    """
    if isinstance(plan, Recipe):
        return _trained_generator(plan, sources, options, on_run, on_progress)
    if not options.resume:
        refuse_mixing_runs(sources.out)
    on_run(plan)
    trained = train_encoder(plan, sources.data, sources.valid, sources.out, on_progress)
    scores = score_encoder(trained.encoder, sources.valid, plan.views)
    return write_encoder(sources.out, plan, sources.data, trained, scores)


def _trained_generator(
    plan: Recipe,
    sources: Sources,
    options: TrainingOptions,
    on_run: Callable[[Plan], None],
    on_progress: Callable[[TrainingProgress], None],
) -> Path | None:
    runs = _checked_runs(plan, sources, options)
    last = runs[-1]
    with joined_processes() as world:
        for run in runs:
            if run is not last and world.is_first:
                _announce(run.recipe, options)
            on_run(run.recipe)
            trained = train(run.recipe, _sources_of(run, sources), world, on_progress)
            if run is not last:
                if world.is_first:
                    spec = header_for(run.recipe, sources.data, trained)
                    write_model(run.out, spec, {}, trained.generator)
                world.wait()
    if not world.is_first:
        return None
    spec = header_for(last.recipe, sources.data, trained)
    scores = _scores(spec, trained, sources.valid) if options.score else {}
    return write_model(last.out, spec, scores, trained.generator)


def _checked_runs(plan: Recipe, sources: Sources, options: TrainingOptions) -> list[Run]:
    """Lists the runs; raises RefusedError if one of them could not be done."""
    runs = runs_to(plan, sources.out, from_scratch=options.from_scratch, resume=options.resume)
    spec_of_start(runs[0].recipe.start)
    for run in runs:
        perceptual_network(run.recipe.loss, _sources_of(run, sources).vgg19)
        if not options.resume:
            refuse_mixing_runs(run.out)
    return runs


def _sources_of(run: Run, sources: Sources) -> Sources:
    """The sources of one run; VGG19 is only for those before the last that use it."""
    is_used = run.out == sources.out or run.recipe.loss.vgg19_weight
    return replace(sources, out=run.out, vgg19=sources.vgg19 if is_used else None)


def _announce(recipe: Recipe, options: TrainingOptions) -> None:
    why = ":" if options.from_scratch else " is not shipped:"
    _log.info("%s%s training it first, %s patches", recipe.name, why, f"{recipe.patches:,}")


def _scores(spec: ModelSpec, trained: Trained, valid: Path) -> dict[str, Any]:
    """Compares the generator with the classical methods on the validation images."""
    method = of_model(Model(spec, trained.generator, ""))
    comparison = Comparison(
        find_pairs(valid),
        lambda scale: [*classical(scale)[1:], method],
        ComparisonOptions(scales=(spec.generator.scale,)),
    )
    return mean_scores(comparison, lambda done, total: None)
