"""The critic during training: its own updates, and its losses for the generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from slidesr.model.device import mixed_precision, training_format
from slidesr.model.imagenet import LITE0_CHANNELS
from slidesr.nets.critic import (
    Critic,
    CriticSpec,
    MapCritic,
    adversarial_loss,
    critic_loss,
    feature_matching,
    gradient_penalty,
    zero_centred_penalty,
)
from slidesr.train.distributed import World
from slidesr.train.objective import Seen
from slidesr.train.recipe import CriticRecipe, LossRecipe


class Adversary:
    """A critic with its optimizer."""

    def __init__(self, recipe: CriticRecipe, world: World, seed: int = 0) -> None:
        self._recipe, self._world, self._seed = recipe, world, seed
        spec = CriticSpec(norm=recipe.norm, channels=recipe.channels)
        depths = [LITE0_CHANNELS[number - 1] for number in recipe.maps]
        critic = Critic(spec) if recipe.sees == "pixels" else MapCritic(depths, spec)
        self.critic: Critic | MapCritic = critic.to(
            world.device, memory_format=training_format(world.device)
        )  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            critic.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=0.0
        )

    def learn(self, real: Seen, fake: Seen, step: int) -> dict[str, Tensor]:
        """Takes the critic's step of this number, on images that need no gradient.

        Returns the critic's losses. What it draws depends only on the seed and the number. The
        gradient penalty is computed in fp32 on every `penalty_every`-th step and multiplied by
        `penalty_every` (lazy regularisation: Karras 2020, arXiv 1912.04958, section 3.1).
        """
        originals, generated = self._shown(real), self._shown(fake)
        with mixed_precision(originals[0].device):
            scores = self.critic(*originals), self.critic(*generated)
            loss = critic_loss(self._recipe.loss, *scores)
        losses = {"critic": loss.detach()}
        every = self._recipe.penalty_every
        if self._recipe.penalty_weight and step % every == 0:
            penalty = self._penalty(originals, generated, step)
            loss = loss + self._recipe.penalty_weight * every * penalty
            losses["penalty"] = penalty.detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._world.average_gradients(self.critic)
        self.optimizer.step()
        return losses

    def _shown(self, seen: Seen) -> Sequence[Tensor]:
        """What the critic sees of an image: its pixels, or some of its maps."""
        if self._recipe.sees == "pixels":
            return [seen.pooled]
        maps = seen.maps[self._recipe.sees]
        return [maps[number - 1] for number in self._recipe.maps]

    def _penalty(self, real: Sequence[Tensor], fake: Sequence[Tensor], step: int) -> Tensor:
        if self._recipe.penalty == "zero":
            r1, r2 = (zero_centred_penalty(self.critic, maps) for maps in (real, fake))
            return (r1 + r2) / 2
        drawn = np.random.SeedSequence((self._seed, step, self._world.rank, 1))
        rng = torch.Generator().manual_seed(int(drawn.generate_state(1)[0]))
        return gradient_penalty(self.critic, real, fake, mix=self._recipe.penalty_mix, rng=rng)

    def losses(self, real: Seen, fake: Seen, weights: LossRecipe) -> dict[str, Tensor]:
        """Computes the generator's weighted losses that depend on the critic."""
        losses = {}
        with _frozen(self.critic), mixed_precision(fake.pooled.device):
            maps, targets = self.critic.features(*self._shown(fake)), []
            is_relative = bool(weights.adversarial_weight) and self._recipe.loss == "relativistic"
            if is_relative or weights.feature_matching_weight:
                with torch.no_grad():
                    targets = self.critic.features(*self._shown(real))
            if weights.adversarial_weight:
                if self._recipe.reaches_generator:
                    scored = maps
                else:
                    scored = [part.detach() for part in maps]
                goal = self.critic.score(targets) if is_relative else None
                loss = adversarial_loss(self._recipe.loss, goal, self.critic.score(scored))
                losses["adversarial"] = weights.adversarial_weight * loss
            if weights.feature_matching_weight:
                matched = feature_matching(maps, targets)
                losses["feature_matching"] = weights.feature_matching_weight * matched
        return losses


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
