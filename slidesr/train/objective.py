"""The generator's weighted losses, except those that need the critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slidesr.errors import RefusedError
from slidesr.model.device import mixed_precision, training_format
from slidesr.model.imagenet import efficientnet_lite, vgg19_features
from slidesr.model.weights import find_encoder, read_encoder
from slidesr.nets.encoder import distance_of_maps
from slidesr.nets.generator import GeneratorSpec
from slidesr.nets.losses import (
    border_detail_loss,
    border_loss,
    colour_consistency,
    frequency_loss,
    grid_loss,
    pixel_loss,
    total_variation,
)
from slidesr.train.recipe import CriticRecipe, LossRecipe

_LEAST_NORM = 1e-12  # of a gradient, where images are equal


@dataclass(frozen=True)
class Seen:
    """An image f32[n, 3, h, w] in 0..1, pooled, and its maps in the frozen networks."""

    image: Tensor
    pooled: Tensor
    maps: Mapping[str, Sequence[Tensor]]  # by the name of the network's loss

    def detached(self) -> Seen:
        maps = {name: [part.detach() for part in parts] for name, parts in self.maps.items()}
        return Seen(self.image.detach(), self.pooled.detach(), maps)


class Objective:
    """Compares a generator's output with the high-resolution target.

    `loss_networks` names the pretrained networks in its losses, with that of the critic.
    """

    def __init__(
        self,
        recipe: LossRecipe,
        spec: GeneratorSpec,
        device: torch.device,
        *,
        critic: CriticRecipe | None = None,
        vgg19: Path | None = None,
    ) -> None:
        self._recipe, self._scale = recipe, spec.scale
        self._window_px = spec.grid_px * spec.scale
        self._critic_sees = critic.sees if critic else ""
        chosen = pretrained_networks(recipe, critic, vgg19)
        self.loss_networks = tuple(network.name for network in chosen)
        self._networks = {
            network.loss: _frozen(network, recipe, vgg19).to(
                device,
                memory_format=training_format(device),  # type: ignore[call-overload]
            )
            for network in chosen
        }
        self._perceptual = {network.loss: network.weight for network in chosen if network.weight}
        self._shares = {
            **self._perceptual,
            "adversarial": recipe.adversarial_weight,
            "feature_matching": recipe.feature_matching_weight,
        }

    def seen(self, image: Tensor, *, by_critic_alone: bool = False) -> Seen:
        """What the critic and the networks see of an image f32[n, 3, h, w] in 0..1.

        They see it average-pooled by `judged_px`. At large scales the finest pixels cannot be
        predicted, and a periodic pattern in them is the cheapest way to lower a texture loss.
        Pooling hides these pixels from the loss.
        """
        pooled = F.avg_pool2d(image, self._recipe.judged_px)
        with mixed_precision(image.device):
            maps = {
                name: network(pooled)
                for name, network in self._networks.items()
                if name == self._critic_sees or not by_critic_alone
            }
        return Seen(image, pooled, maps)

    def losses(self, made: Seen, truth: Seen, low: Tensor) -> dict[str, Tensor]:
        """Computes each weighted loss by name, of an output made from the input `low`."""
        recipe, output, high = self._recipe, made.image, truth.image
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
        if weight := recipe.border_detail_weight:
            losses["border_detail"] = weight * border_detail_loss(output, high, self._window_px)
        if recipe.total_variation_weight:
            losses["total_variation"] = recipe.total_variation_weight * total_variation(output)
        for name, weight in self._perceptual.items():
            losses[name] = weight * self._distance(name, made.maps[name], truth.maps[name])
        return losses

    def _distance(self, name: str, made: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
        if name == "vgg19":  # Johnson et al. 2016, arXiv 1603.08155, eq. 2
            return pixel_loss("mse", made[0], truth[0])
        stages = self._recipe.lite0_stages if name == "lite0" else None
        return distance_of_maps(made, truth, stages).mean()

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


@dataclass(frozen=True)
class PretrainedNetwork:
    """The name of its loss, its own, and its weight there, 0 if it serves the critic alone."""

    loss: str
    name: str
    weight: float


def pretrained_networks(
    recipe: LossRecipe, critic: CriticRecipe | None, vgg19: Path | None
) -> list[PretrainedNetwork]:
    """Chooses the networks of the perceptual losses: VGG19 if its weights are given, else others.

    And that whose maps the critic sees. Raises RefusedError if VGG19's weights are missing or not
    used.
    """
    if vgg19 is not None and not recipe.vgg19_weight:
        raise RefusedError(f"{vgg19}: not used: the recipe sets no vgg19_weight")
    lite0 = PretrainedNetwork("lite0", "EfficientNet-Lite0", recipe.lite0_weight)
    encoder = PretrainedNetwork("perceptual", "histology encoder", recipe.perceptual_weight)
    chosen = [network for network in (lite0, encoder) if network.weight]
    if recipe.vgg19_weight and vgg19 is None and not chosen:
        raise RefusedError(
            "the recipe's perceptual loss needs VGG19: give its weights with --vgg19"
        )
    if vgg19 is not None:
        chosen = [PretrainedNetwork("vgg19", "VGG19", recipe.vgg19_weight)]
    if critic and critic.sees == "lite0" and lite0 not in chosen:
        chosen.append(replace(lite0, weight=0.0))
    return chosen


def _frozen(network: PretrainedNetwork, recipe: LossRecipe, vgg19: Path | None) -> nn.Module:
    stages: nn.Module
    if network.loss == "vgg19" and vgg19 is not None:
        stages = vgg19_features(vgg19, normalised=recipe.vgg19_normalised)
    elif network.loss == "lite0":
        stages = efficientnet_lite(0)
    else:
        stages = read_encoder(find_encoder())[1]
    return stages.requires_grad_(False).eval()
