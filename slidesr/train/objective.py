"""The generator's weighted losses, except those that need the critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.model.device import mixed_precision, training_format
from slidesr.model.imagenet import efficientnet_lite, vgg19_features
from slidesr.model.weights import find_encoder, read_encoder
from slidesr.nets.encoder import distance_of_maps
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
_LEAST_NORM = 1e-12  # of a gradient, where images are equal


class Objective:
    """Compares a generator's output with the high-resolution target.

    `loss_networks` names the pretrained networks in its losses.
    """

    def __init__(
        self, recipe: LossRecipe, spec: GeneratorSpec, device: torch.device, vgg19: Path | None
    ) -> None:
        self._recipe, self._scale = recipe, spec.scale
        self._window_px = spec.grid_px * spec.scale
        self._networks = perceptual_networks(recipe, vgg19)
        self.loss_networks = tuple(network.name for network in self._networks)
        self._distances = {
            network.loss: _distance(network, recipe, device, vgg19) for network in self._networks
        }
        self._shares = {
            **{network.loss: network.weight for network in self._networks},
            "adversarial": recipe.adversarial_weight,
            "feature_matching": recipe.feature_matching_weight,
        }

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
        if self._networks:
            with mixed_precision(output.device):
                shown = self.pooled(output), self.pooled(high)
                for network in self._networks:
                    losses[network.loss] = network.weight * self._distances[network.loss](*shown)
        return losses

    def gradient(
        self, losses: Mapping[str, Tensor], output: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of the sum of the losses at the output, and the norm of each one's own.

        If the recipe says `balanced`, those of losses by networks are scaled; see `LossRecipe`.
        """
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0]
            for name, loss in losses.items()
            if loss.requires_grad
        }
        norms = {name: torch.linalg.vector_norm(each) for name, each in gradients.items()}
        if self._recipe.balanced:
            unit = norms["pixel"] / self._recipe.pixel_weight
            for name, weight in self._shares.items():
                if name in gradients:
                    gradients[name] *= weight * unit / norms[name].clamp(min=_LEAST_NORM)
        return torch.stack(list(gradients.values())).sum(0), norms

    def pooled(self, image: Tensor) -> Tensor:
        """Average-pools an image by `judged_px`, as input to the critic and perceptual network.

        At large scales the finest pixels cannot be predicted, and a periodic pattern in them is the
        cheapest way to lower a texture loss. Pooling hides these pixels from the loss.
        """
        return F.avg_pool2d(image, self._recipe.judged_px)


@dataclass(frozen=True)
class PerceptualNetwork:
    """A pretrained network of a recipe's losses: the name of its loss, its own, and the weight."""

    loss: str
    name: str
    weight: float


def perceptual_networks(recipe: LossRecipe, vgg19: Path | None) -> list[PerceptualNetwork]:
    """Chooses the networks of the perceptual losses: VGG19 if its weights are given, else others.

    Raises RefusedError if VGG19's weights are missing or not used.
    """
    if vgg19 is not None:
        if not recipe.vgg19_weight:
            raise RefusedError(f"{vgg19}: not used: the recipe sets no vgg19_weight")
        return [PerceptualNetwork("vgg19", "VGG19", recipe.vgg19_weight)]
    others = [
        PerceptualNetwork("lite0", "EfficientNet-Lite0", recipe.lite0_weight),
        PerceptualNetwork("perceptual", "histology encoder", recipe.perceptual_weight),
    ]
    chosen = [network for network in others if network.weight]
    if recipe.vgg19_weight and not chosen:
        raise RefusedError(
            "the recipe's perceptual loss needs VGG19: give its weights with --vgg19"
        )
    return chosen


def _distance(
    network: PerceptualNetwork, recipe: LossRecipe, device: torch.device, vgg19: Path | None
) -> _Distance:
    if network.loss == "vgg19" and vgg19 is not None:
        features = vgg19_features(vgg19, normalised=recipe.vgg19_normalised)
        return PerceptualLoss(features, [1.0]).to(device)
    if network.loss == "lite0":
        stages = efficientnet_lite(0).to(device, memory_format=training_format(device))  # type: ignore[call-overload]
        weights: tuple[float, ...] | None = recipe.lite0_stages
    else:
        stages, weights = read_encoder(find_encoder())[1].to(device), None
    stages.requires_grad_(False).eval()

    def distance(output: Tensor, high: Tensor) -> Tensor:
        with torch.no_grad():
            targets = stages(high)
        return distance_of_maps(stages(output), targets, weights).mean()

    return distance
