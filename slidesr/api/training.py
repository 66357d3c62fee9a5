"""Training: a recipe read, its chain of runs, scores, weights and model cards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from slidesr.benchmark.methods import classical, of_model
from slidesr.benchmark.pairs import find_pairs
from slidesr.benchmark.suite import Comparison, ComparisonOptions, mean_scores
from slidesr.errors import RefusedError, StoppedError
from slidesr.model.card import write_model
from slidesr.model.model import Model
from slidesr.model.torch_files import refusing
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator
from slidesr.train.chain import Run, runs_to
from slidesr.train.checkpoint import averaged_weights, reached_in, refuse_mixing_runs
from slidesr.train.distributed import joined_processes
from slidesr.train.encoder.export import write_encoder
from slidesr.train.encoder.scores import score_encoder
from slidesr.train.encoder.training import EncoderProgress, EncoderRecipe, train_encoder
from slidesr.train.initial_weights import spec_of_start
from slidesr.train.loop import Sources, Trained, TrainingProgress, as_stored, train
from slidesr.train.objective import pretrained_networks
from slidesr.train.pace import Control
from slidesr.train.recipe import Recipe, any_recipe_from_toml, find_recipe, without_critic

_log = logging.getLogger(__name__)

Plan = Recipe | EncoderRecipe


@dataclass(frozen=True)
class PlanChanges:
    """What is to differ from a recipe; None leaves it as it is."""

    patches: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    validate_every: int | None = None
    start: str | None = None
    without_critic: bool = False  # leave the critic and its losses out


@dataclass(frozen=True)
class TrainingOptions:
    """How a plan is carried out."""

    resume: bool = False  # continue the runs that stopped in the output folder
    from_scratch: bool = False  # train what the recipe starts from, even if it is shipped
    score: bool = True  # compare the generator with bicubic on the validation images


_NO_CHANGES, _DEFAULTS = PlanChanges(), TrainingOptions()


def training_plan(recipe: str, changes: PlanChanges = _NO_CHANGES) -> Plan:
    """Reads a recipe by its shipped name or its file, and changes it.

    Raises RefusedError where it is no recipe, or the changes do not fit it.
    """
    plan: Plan = any_recipe_from_toml(find_recipe(recipe), EncoderRecipe)
    try:
        plan = _changed(plan, changes)
    except ValueError as error:
        raise RefusedError(f"{plan.name}: {error}") from error
    if isinstance(plan, EncoderRecipe):
        if changes.start or changes.without_critic:
            raise RefusedError(f"{plan.name} is an encoder: it has neither start nor critic")
        return plan
    if changes.start:
        plan = replace(plan, start=changes.start)
    return without_critic(plan) if changes.without_critic else plan


def _changed(plan: Plan, changes: PlanChanges) -> Plan:
    patches = changes.patches or plan.patches
    plan = replace(
        plan,
        patches=patches,
        batch=changes.batch or plan.batch,
        validate_every=changes.validate_every or min(plan.validate_every, patches),
    )
    if changes.learning_rate is None:
        return plan
    if isinstance(plan, EncoderRecipe):
        return replace(plan, learning_rate=changes.learning_rate)
    return replace(plan, optimizer=replace(plan.optimizer, learning_rate=changes.learning_rate))


def train_model(
    plan: Plan,
    sources: Sources,
    options: TrainingOptions = _DEFAULTS,
    *,
    control: Control | None = None,
    on_run: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[TrainingProgress | EncoderProgress], None] = lambda now: None,
) -> Path | None:
    """Trains a generator or an encoder; returns its weights' path, with a model card beside it.

    Weights that a generator starts from and that are not there are trained first, in folders of
    their own in `sources.out`, without scores; see `slidesr.train.chain`. `control` is for the last
    run alone, except that any run stops when it asks to. `on_run` is called as each run begins. The
    weights are written first, and again with their scores. Under torchrun only the first process
    returns a path.
    """
    control = control or Control()
    if control.finish.is_set() and not reached_in(sources.out):
        raise RefusedError(f"{sources.out}: has no run to finish")
    if isinstance(plan, Recipe):
        return _trained_generator(plan, sources, options, control, on_run, on_progress)
    if not options.resume:
        refuse_mixing_runs(sources.out)
    on_run(plan)
    trained = train_encoder(plan, sources.data, sources.valid, sources.out, on_progress, control)
    done = replace(plan, patches=max(plan.batch, trained.patches))
    scores = score_encoder(trained.encoder, sources.valid, plan.views)
    return write_encoder(sources.out, done, sources.data, trained, scores)


def export_checkpoint(checkpoint: Path, out: Path, valid: Path | None = None) -> Path:
    """Writes the weights and the card of a generator's checkpoint; its run is left as it is.

    The weights are the moving average. Without validation images they have no scores. Raises
    RefusedError if the file is no checkpoint of a generator.
    """
    header, weights = averaged_weights(checkpoint)
    with refusing(f"{checkpoint}: not a complete slidesr checkpoint"):
        spec = ModelSpec.from_json(header)
        generator = Generator(spec.generator)
        generator.load_state_dict(weights)
    return _written(Trained(as_stored(generator), spec), out, valid, Event())


def _trained_generator(
    plan: Recipe,
    sources: Sources,
    options: TrainingOptions,
    control: Control,
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
            own = control if run is last else Control(stop=control.stop)
            trained = train(run.recipe, _sources_of(run, sources), world, on_progress, own)
            if run is not last:
                if world.is_first:
                    write_model(run.out, trained.header, {}, trained.generator)
                world.wait()
    if not world.is_first:
        return None
    return _written(trained, last.out, sources.valid if options.score else None, control.stop)


def _written(trained: Trained, out: Path, valid: Path | None, stop: Event) -> Path:
    """Writes weights and card, and then once more with scores, which take minutes."""
    path = write_model(out, trained.header, {}, trained.generator)
    if valid:
        write_model(out, trained.header, _scores(trained, valid, stop), trained.generator)
    return path


def _checked_runs(plan: Recipe, sources: Sources, options: TrainingOptions) -> list[Run]:
    """Lists the runs; raises RefusedError if one of them could not be done."""
    runs = runs_to(plan, sources.out, from_scratch=options.from_scratch, resume=options.resume)
    spec_of_start(runs[0].recipe.start)
    for run in runs:
        recipe, vgg19 = run.recipe, _sources_of(run, sources).vgg19
        pretrained_networks(recipe.loss, recipe.critic, vgg19)
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


def _scores(trained: Trained, valid: Path, stop: Event) -> dict[str, Any]:
    """Compares the generator with the classical methods on the validation images."""
    spec = trained.header
    method = of_model(Model(spec, trained.generator, ""))
    comparison = Comparison(
        find_pairs(valid),
        lambda scale: [*classical(scale)[1:], method],
        ComparisonOptions(scales=(spec.generator.scale,)),
    )

    def report(done: int, total: int) -> None:
        if stop.is_set():
            raise StoppedError(f"{spec.name}: stopped; its weights are written, without scores")

    return mean_scores(comparison, report)
