"""The generator's losses that need no critic, weighted as the recipe says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.model.device import mixed_precision
from slidesr.model.imagenet import vgg19_features
from slidesr.model.weights import find_encoder, read_encoder
from slidesr.nets.encoder import perceptual_distance
from slidesr.nets.losses import (
    PerceptualLoss,
    colour_consistency,
    frequency_loss,
    grid_loss,
    pixel_loss,
    total_variation,
)
from slidesr.train.recipe import LossRecipe

_Distance = Callable[[Tensor, Tensor], Tensor]


class Objective:
    """Compares what a generator made with what it should be.

    `perceptual_network` names the network of the perceptual loss: VGG19 where its weights are given
    and the recipe weighs it, else the histology encoder; empty where the recipe has no such loss.
    """

    def __init__(
        self, recipe: LossRecipe, scale: int, device: torch.device, vgg19: Path | None
    ) -> None:
        self._recipe, self._scale = recipe, scale
        self.perceptual_network, self._perceptual_weight = _perceptual(recipe, vgg19)
        self._perceptual: _Distance | None = None
        if vgg19 is not None and self.perceptual_network == "VGG19":
            features = vgg19_features(vgg19, normalised=recipe.vgg19_normalised)
            self._perceptual = PerceptualLoss(features, [1.0]).to(device)
        elif self.perceptual_network:
            encoder = read_encoder(find_encoder())[1].to(device).requires_grad_(False)
            self._perceptual = lambda made, high: perceptual_distance(encoder, made, high).mean()

    def losses(self, made: Tensor, high: Tensor, low: Tensor) -> dict[str, Tensor]:
        """Each loss times its weight, by name; made, high f32[n, 3, h, w], low its reduction."""
        recipe = self._recipe
        losses = {}
        if recipe.pixel_weight:
            losses["pixel"] = recipe.pixel_weight * pixel_loss(recipe.pixel, made, high)
        if recipe.frequency_weight:
            losses["frequency"] = recipe.frequency_weight * frequency_loss(made, high)
        if recipe.colour_weight:
            losses["colour"] = recipe.colour_weight * colour_consistency(made, low, self._scale)
        if recipe.grid_weight:
            losses["grid"] = recipe.grid_weight * grid_loss(made, self._scale)
        if recipe.total_variation_weight:
            losses["total_variation"] = recipe.total_variation_weight * total_variation(made)
        if self._perceptual is not None:
            with mixed_precision(made.device):
                distance = self._perceptual(self.judged(made), self.judged(high))
                losses["perceptual"] = self._perceptual_weight * distance
        return losses

    def judged(self, image: Tensor) -> Tensor:
        """What critic and perceptual network see of it.

        Where the upsampling is long, its finest pixels are out of reach of the truth, and a pattern
        there is the cheapest way to please a judge of texture. One that does not see them is not
        pleased.
        """
        return F.avg_pool2d(image, self._recipe.judged_px)


def _perceptual(recipe: LossRecipe, vgg19: Path | None) -> tuple[str, float]:
    if vgg19 is not None and not recipe.vgg19_weight:
        raise RefusedError(f"{vgg19}: the recipe has no vgg19_weight, so VGG19 has no use")
    if vgg19 is None and recipe.vgg19_weight and not recipe.perceptual_weight:
        raise RefusedError("the recipe weighs VGG19 alone: give its weights with --vgg19")
    if vgg19 is not None and recipe.vgg19_weight:
        return "VGG19", recipe.vgg19_weight
    return ("histology encoder" if recipe.perceptual_weight else ""), recipe.perceptual_weight
