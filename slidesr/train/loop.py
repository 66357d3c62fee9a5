"""The training loop; progress is counted in patches."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from collections.abc import Generator as Batches
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.device import mixed_precision
from slidesr.nets.generator import Generator
from slidesr.runtime.ordered_map import ordered_map
from slidesr.train.adversary import Adversary
from slidesr.train.checkpoint import Stateful, TrainingCheckpoint
from slidesr.train.data import PatchPair, PatchSampler
from slidesr.train.device_sampler import DeviceSampler
from slidesr.train.distributed import World
from slidesr.train.initial_weights import initial_generator
from slidesr.train.log import TrainingLog
from slidesr.train.objective import Objective
from slidesr.train.recipe import Recipe, learning_rate, recipe_as_dict
from slidesr.train.validation import Scores, Validation

_LOGS_A_VALIDATION = 20


@dataclass(frozen=True)
class Sources:
    """The folders a run reads and writes, and VGG19's weights if the user has them."""

    data: Path
    valid: Path
    out: Path
    vgg19: Path | None = None


@dataclass(frozen=True)
class TrainingProgress:
    """The state of a run: mean losses since the last report, and scores next to bicubic's."""

    patches: int
    seconds: float
    losses: dict[str, float]
    scores: Scores
    bicubic: Scores


@dataclass(frozen=True)
class Trained:
    """The result of a run: the generator and the effort spent."""

    generator: Generator
    patches: int
    seconds: float
    perceptual_network: str  # of the perceptual loss; empty without one


@dataclass(frozen=True)
class _Parts:
    """Networks, optimizers and losses; `enlarge` is the generator, compiled on a GPU."""

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
    recipe: Recipe, sources: Sources, world: World, report: Callable[[TrainingProgress], None]
) -> Trained:
    """Trains a generator and returns its moving average; resumes from `out`/checkpoint.pt.

    The state is saved atomically at every validation. Patch k and the random numbers of step k are
    functions of the seed and k: on a CPU a resumed run gives bit for bit the weights of an
    uninterrupted one.
    """
    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.benchmark = True  # shapes never change
    validation = Validation(sources.valid, recipe.generator)
    parts = _assembled(recipe, sources, world)
    state = TrainingCheckpoint(sources.out, recipe_as_dict(recipe), parts.to_save())
    patches, seconds = state.load()

    started = time.monotonic() - seconds
    seen: list[dict[str, Tensor]] = []
    with (
        closing(_batches(sources.data, recipe, world, patches)) as batches,
        TrainingLog(sources.out if world.is_first else None) as log,
    ):
        for pair in batches:
            for group in parts.optimizer.param_groups:
                group["lr"] = learning_rate(recipe.optimizer, patches, recipe.patches)
            seen.append(_step(recipe, parts, world, pair, patches))
            before, patches = patches, patches + recipe.batch
            validates = _due(before, patches, recipe.validate_every) or patches >= recipe.patches
            if validates or _due(before, patches, recipe.validate_every / _LOGS_A_VALIDATION):
                _log_losses(log, seen[-1], patches, time.monotonic() - started)
            if validates:
                world.average_buffers(parts.average)
                seconds = time.monotonic() - started
                if world.is_first:
                    state.save(patches, seconds)
                    scores = validation.scores(parts.average.module)
                    log.scores(patches, scores, validation.picture(parts.average.module))
                    report(
                        TrainingProgress(patches, seconds, _means(seen), scores, validation.bicubic)
                    )
                seen.clear()
    trained: nn.Module = parts.average.module
    as_stored = cast(Generator, trained.eval().half().float())
    network = parts.objective.perceptual_network
    return Trained(as_stored, patches, time.monotonic() - started, network)


def _step(
    recipe: Recipe, parts: _Parts, world: World, pair: PatchPair, patches: int
) -> dict[str, Tensor]:
    """One step of the critic, if it has started, and one of the generator; returns their losses."""
    high, low = (
        part.to(world.device, non_blocking=True, memory_format=torch.channels_last)
        for part in (pair.high, pair.low)
    )
    with mixed_precision(world.device):
        output = parts.enlarge(low).float()
    losses = parts.objective.losses(output, high, low)
    seen: dict[str, Tensor] = {}
    if parts.adversary and recipe.critic and patches >= recipe.critic.begins_after:
        step = patches // recipe.batch
        seed = np.random.SeedSequence((recipe.seed, step, world.rank, 1)).generate_state(1)[0]
        rng = torch.Generator().manual_seed(int(seed))
        real, fake = parts.objective.judged(high), parts.objective.judged(output)
        seen = parts.adversary.learn(real, fake.detach(), step, rng)
        losses |= parts.adversary.losses(real, fake, recipe.loss)
    parts.optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    world.average_gradients(parts.generator)
    nn.utils.clip_grad_norm_(parts.generator.parameters(), recipe.optimizer.clip_norm)
    parts.optimizer.step()
    parts.average.update_parameters(parts.generator)
    return seen | {name: value.detach() for name, value in losses.items()}


def _assembled(recipe: Recipe, sources: Sources, world: World) -> _Parts:
    generator: Generator = initial_generator(recipe.generator, recipe.start).to(  # type: ignore[call-overload]
        world.device, memory_format=torch.channels_last
    )
    return _Parts(
        generator=generator,
        enlarge=torch.compile(generator) if world.device.type == "cuda" else generator,
        average=AveragedModel(
            generator, multi_avg_fn=_warm_average(recipe.optimizer.ema), use_buffers=True
        ),
        optimizer=torch.optim.AdamW(
            generator.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            weight_decay=recipe.optimizer.weight_decay,
            fused=world.device.type == "cuda",
        ),
        objective=Objective(recipe.loss, recipe.generator.scale, world.device, sources.vgg19),
        adversary=Adversary(recipe.critic, world) if recipe.critic else None,
    )


def _batches(
    data: Path, recipe: Recipe, world: World, first: int
) -> Batches[PatchPair, None, None]:
    """This process's share of each batch, drawn on the GPU or prefetched by threads."""
    share, rest = divmod(recipe.batch, world.size)
    if rest:
        raise RefusedError(f"a batch of {recipe.batch} does not divide by {world.size} processes")
    scale, seed = recipe.generator.scale, recipe.seed
    firsts = range(first, recipe.patches, recipe.batch)
    if world.device.type == "cuda" and recipe.data.degradation == "bicubic":
        on_device = DeviceSampler(data, recipe.data, scale=scale, seed=seed, device=world.device)
        return (on_device.draw(start + world.rank * share, share) for start in firsts)
    sampler = PatchSampler(data, recipe.data, scale=scale, seed=seed)
    workers = 1
    if world.device.type == "cuda":
        workers = max(1, min(8, (os.cpu_count() or 1) // world.size))
    return ordered_map(
        lambda start: sampler.draw(start + world.rank * share, share),
        firsts,
        workers=workers,
        ahead=2 * workers,
    )


def _log_losses(log: TrainingLog, losses: dict[str, Tensor], patches: int, seconds: float) -> None:
    """Logs the losses of one step; raises SlidesrError if one is not finite."""
    values = {name: float(value) for name, value in losses.items()}
    if not all(map(math.isfinite, values.values())):
        raise SlidesrError(f"the loss is not finite after {patches} patches: {values}")
    log.numbers(patches, {f"loss/{name}": value for name, value in values.items()})
    log.numbers(patches, {"patches_per_s": patches / seconds})


def _due(before: int, now: int, every: float) -> bool:
    return before // every != now // every


def _means(seen: list[dict[str, Tensor]]) -> dict[str, float]:
    names = sorted({name for one in seen for name in one})
    each = {name: torch.stack([one[name] for one in seen if name in one]) for name in names}
    return {name: float(values.double().mean()) for name, values in each.items()}


def _warm_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average with a warm-up, so the initial weights are forgotten."""

    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        step = int(count)
        warm = min(decay, (1 + step) / (10 + step))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - warm)
        else:  # batch norm's counters
            torch._foreach_copy_(averages, values)

    return update
