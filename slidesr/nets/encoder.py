"""A small perceptual network for H&E: feature maps, a perceptual distance and an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MEAN = (0.73, 0.55, 0.74)  # of the training images: R, G, B
_STD = (0.19, 0.22, 0.17)
_LEAST_SQUARES = 1e-4  # keeps the gradient finite where all features are near 0


@dataclass(frozen=True)
class EncoderSpec:
    """The channels of each stage; every stage halves the resolution."""

    channels: tuple[int, ...] = (16, 48, 96, 160, 256)

    def __post_init__(self) -> None:
        if not isinstance(self.channels, tuple) or not 1 <= len(self.channels) <= 6:
            raise ValueError(f"channels {self.channels!r} must be one to six whole numbers")
        for count in self.channels:
            if type(count) is not int or not (8 <= count <= 512 and count % 8 == 0):
                raise ValueError(f"{count!r} channels: not a multiple of 8 within 8..512")

    @property
    def least_px(self) -> int:
        """The smallest image side for which the last map has a pixel."""
        return 1 << (len(self.channels) - 1)


class Encoder(nn.Module):
    """f32[n, 3, h, w] in 0..1 -> one map [n, c, h / 2**k, w / 2**k] per stage k = 0, 1, ...

    VGG's stages (Simonyan and Zisserman 2014, arXiv 1409.1556) with average instead of max pooling,
    which aliases less (Kettunen et al. 2019, E-LPIPS, arXiv 1906.03973). All layers are local and
    independent of the other images in the batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stages = nn.ModuleList(_stage(*ends) for ends in pairwise((3, *spec.channels)))
        self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if min(x.shape[2:]) < self.spec.least_px:
            raise ValueError(
                f"{x.shape[3]} x {x.shape[2]} px: give at least {self.spec.least_px} px a side"
            )
        features, maps = (x - self.mean) / self.std, list[Tensor]()
        for stage in self.stages:
            features = stage(F.avg_pool2d(features, 2) if maps else features)
            maps.append(features)
        return tuple(maps)

    def embedding(self, x: Tensor) -> Tensor:
        """The spatial mean of the last map, for Frechet distances: f32[n, 3, h, w] -> f32[n, c]."""
        maps: tuple[Tensor, ...] = self(x)
        return maps[-1].float().mean((2, 3))


def perceptual_distance(encoder: Encoder, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924, eq. 1) with all weights 1: f32[n], 0 if equal.

    a, b are f32[n, 3, h, w] in 0..1. Each stage contributes a value in 0..4: the squared distance
    of the unit feature vectors, averaged over positions.
    """
    return distance_of_maps(encoder(a), encoder(b))


def distance_of_maps(
    these: Sequence[Tensor], those: Sequence[Tensor], weights: Sequence[float] | None = None
) -> Tensor:
    """`perceptual_distance` from feature maps that have been computed already: f32[n].

    `weights` are those of the stages, 1 by default.
    """
    stages = [_squared_distance(*pair) for pair in zip(these, those, strict=True)]
    if weights is not None:
        stages = [weight * stage for weight, stage in zip(weights, stages, strict=True)]
    return torch.stack(stages).sum(0)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features * (features.square().sum(1, keepdim=True) + _LEAST_SQUARES).rsqrt()


def _stage(before: int, after: int) -> nn.Sequential:
    convs = [nn.Conv2d(channels, after, 3, padding=1) for channels in (before, after)]
    for conv in convs:  # without normalisation layers the variance must survive ten layers
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    first, second = convs
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
