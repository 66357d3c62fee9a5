"""The generator's weighted losses, except those that need the critic."""

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
from slidesr.nets.generator import GeneratorSpec
from slidesr.nets.losses import (
    PerceptualLoss,
    border_loss,
    colour_consistency,
    frequency_loss,
    grid_loss,
    pixel_loss,
    total_variation,
)
from slidesr.train.recipe import LossRecipe

_Distance = Callable[[Tensor, Tensor], Tensor]


class Objective:
    """Compares a generator's output with the high-resolution target.

    `loss_networks` names the pretrained networks in its losses: VGG19 if its weights are given and
    `vgg19_weight` is set, otherwise the histology encoder; none without a perceptual loss.
    """

    def __init__(
        self, recipe: LossRecipe, spec: GeneratorSpec, device: torch.device, vgg19: Path | None
    ) -> None:
        self._recipe, self._scale = recipe, spec.scale
        self._window_px = spec.grid_px * spec.scale
        network, self._perceptual_weight = perceptual_network(recipe, vgg19)
        self.loss_networks = (network,) if network else ()
        self._perceptual: _Distance | None = None
        if vgg19 is not None and network == "VGG19":
            features = vgg19_features(vgg19, normalised=recipe.vgg19_normalised)
            self._perceptual = PerceptualLoss(features, [1.0]).to(device)
        elif network:
            encoder = read_encoder(find_encoder())[1].to(device).requires_grad_(False)
            self._perceptual = lambda output, high: perceptual_distance(
                encoder, output, high
            ).mean()

    def losses(self, output: Tensor, high: Tensor, low: Tensor) -> dict[str, Tensor]:
        """Computes each weighted loss by name.

        `output` and `high` are f32[n, 3, h, w] in 0..1; `low` is the generator's input.
        """
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
        if recipe.border_weight:
            losses["border"] = recipe.border_weight * border_loss(output, high, self._window_px)
        if recipe.total_variation_weight:
            losses["total_variation"] = recipe.total_variation_weight * total_variation(output)
        if self._perceptual is not None:
            with mixed_precision(output.device):
                distance = self._perceptual(self.pooled(output), self.pooled(high))
                losses["perceptual"] = self._perceptual_weight * distance
        return losses

    def pooled(self, image: Tensor) -> Tensor:
        """Average-pools an image by `judged_px`, as input to the critic and perceptual network.

        At large scales the finest pixels cannot be predicted, and a periodic pattern in them is the
        cheapest way to lower a texture loss. Pooling hides these pixels from the loss.
        """
        return F.avg_pool2d(image, self._recipe.judged_px)


def perceptual_network(recipe: LossRecipe, vgg19: Path | None) -> tuple[str, float]:
    """Chooses the network of the perceptual loss, "" for none, and its weight.

    Raises RefusedError if VGG19's weights are missing or not used.
    """
    if vgg19 is not None and not recipe.vgg19_weight:
        raise RefusedError(f"{vgg19}: not used: the recipe sets no vgg19_weight")
    if vgg19 is None and recipe.vgg19_weight and not recipe.perceptual_weight:
        raise RefusedError(
            "the recipe's perceptual loss needs VGG19: give its weights with --vgg19"
        )
    if vgg19 is not None and recipe.vgg19_weight:
        return "VGG19", recipe.vgg19_weight
    return ("histology encoder" if recipe.perceptual_weight else ""), recipe.perceptual_weight
