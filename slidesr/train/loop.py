"""The training loop of the generator. Progress is counted in patches."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from collections.abc import Generator as Batches
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.device import mixed_precision, training_format
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator
from slidesr.runtime.ordered_map import ordered_map
from slidesr.train.adversary import Adversary
from slidesr.train.checkpoint import Stateful, TrainingCheckpoint
from slidesr.train.data import PatchPair, PatchSampler, joined
from slidesr.train.device_sampler import DeviceSampler, can_draw
from slidesr.train.distributed import World
from slidesr.train.header import Origin, header_for, terms_of
from slidesr.train.initial_weights import (
    initial_generator,
    recorded,
    spec_of_start,
    without_last_stage,
)
from slidesr.train.log import TrainingLog
from slidesr.train.muon import Muon
from slidesr.train.objective import Objective
from slidesr.train.pace import Control, Pace
from slidesr.train.recipe import Recipe, learning_rate
from slidesr.train.validation import Scores, Validation

_log = logging.getLogger(__name__)

_LOGS_PER_VALIDATION = 20
_OPTIMIZERS = {"adamw": torch.optim.AdamW, "muon": Muon}


@dataclass(frozen=True)
class Sources:
    """Input and output paths of a run. VGG19's weights are supplied by the user."""

    data: Path
    valid: Path
    out: Path
    vgg19: Path | None = None


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a run: mean losses since the last report, scores, and those of bicubic."""

    patches: int
    seconds: float
    end: float  # patches of the whole run; inf while its minutes tell nothing yet
    patches_per_s: float  # in this call, validation included
    losses: dict[str, float]
    scores: Scores
    bicubic: Scores

    @classmethod
    def of(
        cls, pace: Pace, losses: dict[str, float], scores: Scores, bicubic: Scores
    ) -> TrainingProgress:
        now = pace.patches, pace.seconds, pace.end, pace.patches_per_s
        return cls(*now, losses, scores, bicubic)

    def as_line(self) -> str:
        """Formats losses and scores in one line, each score with its gain over bicubic."""
        gains = ", ".join(
            f"{data} {score['psnr_db']:.2f} dB"
            f" ({score['psnr_db'] - self.bicubic[data]['psnr_db']:+.2f}),"
            f" SSIM {score['ssim']:.4f} ({score['ssim'] - self.bicubic[data]['ssim']:+.4f})"
            for data, score in self.scores.items()
        )
        losses = ", ".join(f"{name} {value:.5f}" for name, value in self.losses.items())
        return f"{losses}  {gains}"


@dataclass(frozen=True)
class Trained:
    """The result of a run: weights rounded to fp16, as they are stored, and their header."""

    generator: Generator
    header: ModelSpec


@dataclass(frozen=True)
class _Parts:
    """Networks, optimizers and losses of a run; `enlarge` is the generator, compiled on a GPU."""

    generator: Generator
    enlarge: Callable[[Tensor], Tensor]
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    objective: Objective
    adversary: Adversary | None

    def to_save(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "generator": self.generator,
            "average": self.average,
            "optimizer": self.optimizer,
        }
        if self.adversary:
            parts |= {
                "critic": self.adversary.critic,
                "critic_optimizer": self.adversary.optimizer,
            }
        return parts


def train(
    recipe: Recipe,
    sources: Sources,
    world: World,
    report: Callable[[TrainingProgress], None],
    control: Control | None = None,
) -> Trained:
    """Trains a generator and returns its moving average; resumes from `out`/checkpoint.pt.

    A checkpoint is written atomically at every validation, every few minutes, and when `control`
    asks to stop, which raises StoppedError. Patch k and the random numbers of step k depend only on
    the seed and k, so on a CPU a resumed run ends with bit-identical weights.
    """
    log = TrainingLog(sources.out if world.is_first else None)
    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.benchmark = True  # shapes never change
    validation = Validation(sources.valid, recipe.generator)
    pace = Pace(recipe, control or Control(), world)
    parts = _built_parts(recipe, sources, world)
    state = _resumed(recipe, sources, parts, pace)
    history: list[dict[str, Tensor]] = []
    with log, closing(_batches(sources.data, recipe, world, pace.patches)) as batches:
        while not pace.ends:
            if pace.begins_cooldown:
                state.begin_cooldown(world)
            for group in parts.optimizer.param_groups:
                group["lr"] = learning_rate(recipe.optimizer, pace.patches, pace.end)
            history.append(_step(recipe, parts, world, next(batches), pace.patches))
            pace.count()
            validates = pace.ends or pace.passed(recipe.validate_every)
            if validates or pace.passed(recipe.validate_every / _LOGS_PER_VALIDATION):
                _log_losses(log, history[-1], pace)
            if validates or pace.saves or pace.stops:
                state.save(world)
            if validates:
                if world.is_first:
                    scores = _validate(validation, parts, log, pace)
                    report(TrainingProgress.of(pace, _means(history), scores, validation.bicubic))
                history.clear()
            pace.stop_if_asked()
    return Trained(as_stored(cast(Generator, parts.average.module)), state.header)


def as_stored(generator: Generator) -> Generator:
    """Rounds the weights to fp16, in place, and leaves them in fp32, in evaluation mode."""
    return generator.eval().half().float()


@dataclass(frozen=True)
class _State:
    """What a run saves: its parts, and the header that their weights would have."""

    checkpoint: TrainingCheckpoint
    origin: Origin
    average: AveragedModel
    pace: Pace

    @property
    def header(self) -> ModelSpec:
        return header_for(self.origin, self.pace.reached)

    def save(self, world: World) -> None:
        world.average_buffers(self.average)
        if world.is_first:
            self.checkpoint.save(self.pace.reached, self.header.to_json())
        self.pace.saved()

    def begin_cooldown(self, world: World) -> None:
        """Keeps the state before the learning rate falls."""
        if self.pace.patches:
            self.save(world)
            if world.is_first:
                self.checkpoint.keep()
        self.pace.cooling = True


def _resumed(recipe: Recipe, sources: Sources, parts: _Parts, pace: Pace) -> _State:
    """Restores the parts and the pace from the checkpoint, if there is one."""
    start = spec_of_start(recipe.start)
    checkpoint = TrainingCheckpoint(sources.out, recorded(recipe, start), parts.to_save())
    reached, header = checkpoint.load(pace.fits)
    pace.resume(reached)
    if header:
        begun_from = without_last_stage(ModelSpec.from_json(header))
        if (begun_from and begun_from.stages) != (start and start.stages):
            _log.warning(
                "%s: goes on from %s as it was when the run began", recipe.name, recipe.start
            )
        start = begun_from
    origin = Origin(recipe, terms_of(sources.data), start, parts.objective.loss_networks)
    return _State(checkpoint, origin, parts.average, pace)


def _step(
    recipe: Recipe, parts: _Parts, world: World, pair: PatchPair, patches: int
) -> dict[str, Tensor]:
    """Takes the critic's steps, once it is active, and one generator step.

    The generator learns from the first patches of its batch, the critic's further steps from the
    rest. Returns losses, and the norms of their gradients at the output.
    """
    layout, share = training_format(world.device), recipe.batch // world.size
    high, low = (
        torch.split(part.to(world.device, non_blocking=True, memory_format=layout), share)
        for part in (pair.high, pair.low)
    )
    with mixed_precision(world.device):
        made = parts.enlarge(low[0]).float()
    output = made.detach().requires_grad_()  # each loss has a gradient of its own here
    objective = parts.objective
    truth, shown = objective.seen(high[0]), objective.seen(output)
    losses = objective.losses(shown, truth, low[0])
    critic_losses: dict[str, Tensor] = {}
    if parts.adversary and recipe.critic and patches >= recipe.critic.begins_after:
        step = patches // recipe.batch * recipe.critic.steps
        for real, given in zip(high[1:], low[1:], strict=True):
            with torch.no_grad(), mixed_precision(world.device):
                fake = objective.seen(parts.enlarge(given).float(), by_critic_alone=True)
            parts.adversary.learn(objective.seen(real, by_critic_alone=True), fake, step)
            step += 1
        critic_losses = parts.adversary.learn(truth, shown.detached(), step)
        losses |= parts.adversary.losses(truth, shown, recipe.loss)
    gradient, norms = objective.gradient(losses, output)
    parts.optimizer.zero_grad(set_to_none=True)
    made.backward(gradient)  # type: ignore[no-untyped-call]
    world.average_gradients(parts.generator)
    nn.utils.clip_grad_norm_(parts.generator.parameters(), recipe.optimizer.clip_norm)
    parts.optimizer.step()
    parts.average.update_parameters(parts.generator)
    return (
        critic_losses
        | {name: value.detach() for name, value in losses.items()}
        | {f"gradient/{name}": value for name, value in norms.items()}
    )


def _validate(validation: Validation, parts: _Parts, log: TrainingLog, pace: Pace) -> Scores:
    """Scores the averaged generator and logs the scores with a sample picture."""
    scores, bicubic = validation.scores(parts.average.module), validation.bicubic
    log.scores(pace.patches, scores, validation.picture(parts.average.module))
    gains = {
        f"gain_db/{data}": of["psnr_db"] - bicubic[data]["psnr_db"] for data, of in scores.items()
    }
    log.numbers(pace.patches, gains | {"seconds": pace.seconds})
    return scores


def _built_parts(recipe: Recipe, sources: Sources, world: World) -> _Parts:
    generator: Generator = initial_generator(recipe.generator, recipe.start).to(  # type: ignore[call-overload]
        world.device, memory_format=training_format(world.device)
    )
    return _Parts(
        generator=generator,
        enlarge=torch.compile(generator) if world.device.type == "cuda" else generator,
        average=AveragedModel(
            generator, multi_avg_fn=_warm_average(recipe.optimizer.ema), use_buffers=True
        ),
        optimizer=_OPTIMIZERS[recipe.optimizer.kind](
            generator.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            weight_decay=recipe.optimizer.weight_decay,
            fused=world.device.type == "cuda",
        ),
        objective=Objective(
            recipe.loss,
            recipe.generator,
            world.device,
            critic=recipe.critic,
            vgg19=sources.vgg19,
        ),
        adversary=Adversary(recipe.critic, world, recipe.seed) if recipe.critic else None,
    )


def _batches(
    data: Path, recipe: Recipe, world: World, first: int
) -> Batches[PatchPair, None, None]:
    """Yields this process's share of the patches of each step, those of further critic steps last.

    They are drawn on the GPU or prefetched by CPU threads.
    """
    share, rest = divmod(recipe.batch, world.size)
    if rest:
        raise RefusedError(
            f"a batch of {recipe.batch} cannot be split evenly over {world.size} processes"
        )
    scale, seed, steps = recipe.generator.scale, recipe.seed, recipe.critic_steps
    on_device = world.device.type == "cuda" and can_draw(recipe.data)
    sampler: PatchSampler | DeviceSampler
    if on_device:
        sampler = DeviceSampler(data, recipe.data, scale=scale, seed=seed, device=world.device)
    else:
        sampler = PatchSampler(data, recipe.data, scale=scale, seed=seed)

    def drawn(done: int) -> PatchPair:
        own = done * steps + world.rank * share
        return joined([sampler.draw(own + step * recipe.batch, share) for step in range(steps)])

    done = count(first, recipe.batch)  # the loop ends the run
    if on_device:
        return (drawn(patches) for patches in done)
    workers = 1
    if world.device.type == "cuda":
        workers = max(1, min(8, (os.cpu_count() or 1) // world.size))
    return ordered_map(drawn, done, workers=workers, ahead=2 * workers)


def _log_losses(log: TrainingLog, losses: dict[str, Tensor], pace: Pace) -> None:
    """Logs the losses of one step; raises SlidesrError if one is not finite."""
    values = {name: float(value) for name, value in losses.items()}
    if not all(map(math.isfinite, values.values())):
        raise SlidesrError(f"a loss is not a number after {pace.patches} patches: {values}")
    log.numbers(
        pace.patches,
        {name if "/" in name else f"loss/{name}": value for name, value in values.items()},
    )
    log.numbers(pace.patches, {"patches_per_s": pace.patches_per_s})


def _means(history: list[dict[str, Tensor]]) -> dict[str, float]:
    """Averages each loss over the steps that computed it; not the norms of their gradients."""
    names = sorted({name for losses in history for name in losses if "/" not in name})
    values = {
        name: torch.stack([losses[name] for losses in history if name in losses]) for name in names
    }
    return {name: float(stacked.double().mean()) for name, stacked in values.items()}


def _warm_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average whose warm-up discards the random initial weights."""

    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        step = int(count)
        warm = min(decay, (1 + step) / (10 + step))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - warm)
        else:  # batch norm's counters
            torch._foreach_copy_(averages, values)

    return update
