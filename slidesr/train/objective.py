"""The generator's losses other than the critic's, weighted by the recipe."""

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
    """Compares the generator's output with the reference.

    `perceptual_network` names the network of the perceptual loss: VGG19 if its weights are given
    and the recipe has a weight for it, else the histology encoder; empty without such a loss.
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
            self._perceptual = lambda output, high: perceptual_distance(
                encoder, output, high
            ).mean()

    def losses(self, output: Tensor, high: Tensor, low: Tensor) -> dict[str, Tensor]:
        """Weighted losses by name; output and high are f32[n, 3, h, w], low is the reduction."""
        recipe = self._recipe
        losses = {}
        if recipe.pixel_weight:
            losses["pixel"] = recipe.pixel_weight * pixel_loss(recipe.pixel, output, high)
        if recipe.frequency_weight:
            losses["frequency"] = recipe.frequency_weight * frequency_loss(output, high)
        if recipe.colour_weight:
            losses["colour"] = recipe.colour_weight * colour_consistency(output, low, self._scale)
        if recipe.grid_weight:
            losses["grid"] = recipe.grid_weight * grid_loss(output, self._scale)
        if recipe.total_variation_weight:
            losses["total_variation"] = recipe.total_variation_weight * total_variation(output)
        if self._perceptual is not None:
            with mixed_precision(output.device):
                distance = self._perceptual(self.judged(output), self.judged(high))
                losses["perceptual"] = self._perceptual_weight * distance
        return losses

    def judged(self, image: Tensor) -> Tensor:
        """The image as the critic and the perceptual network see it: averaged over `judged_px`.

        At large scales the finest pixels cannot be predicted, and a regular pattern is the easiest
        way to lower a loss that rewards texture. Hiding those pixels removes the incentive.
        """
        return F.avg_pool2d(image, self._recipe.judged_px)


def _perceptual(recipe: LossRecipe, vgg19: Path | None) -> tuple[str, float]:
    if vgg19 is not None and not recipe.vgg19_weight:
        raise RefusedError(f"{vgg19}: the recipe has no vgg19_weight, so VGG19 would not be used")
    if vgg19 is None and recipe.vgg19_weight and not recipe.perceptual_weight:
        raise RefusedError("the recipe uses VGG19: give its weights with --vgg19")
    if vgg19 is not None and recipe.vgg19_weight:
        return "VGG19", recipe.vgg19_weight
    return ("histology encoder" if recipe.perceptual_weight else ""), recipe.perceptual_weight
