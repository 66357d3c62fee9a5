"""Judges: networks that compare images by their feature maps, and sets of images by embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging.metrics import frechet, kid
from slidesr.model.imagenet import (
    Architecture,
    efficientnet_lite,
    efficientnet_lite_file,
    network_stages,
    vgg19_features,
)
from slidesr.model.score_table import ENCODER, INDEPENDENT, NO_JUDGE
from slidesr.model.weights import find_encoder, read_encoder, sha256_of
from slidesr.nets.encoder import distance_of_maps
from slidesr.nets.layers import as_tensor

_TILE_PX = 64
MIN_SIDE_PX = _TILE_PX  # of an image, to have an embedding
_BATCH_PX = 1 << 20  # images of one pass; VGG19 takes 0.3 GB for the maps of its first stage
_OF_IMAGES, _OF_SETS = ("distance", "texture"), ("fid", "kid")
_LITE0 = "efficientnet-lite0"
_C1 = _C2 = 1e-6  # below eq. 6 of Ding 2020

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What one judge says of the images of one comparison."""

    scores: dict[str, list[float]]  # metric -> by output
    embeddings: _F32  # [1 + outputs, tiles, d], high resolution first


@dataclass(frozen=True)
class Judge:
    """A network f32[n, 3, h, w] in 0..1 -> maps [n, c, h', w'] of falling resolution.

    `kinds` are of four: the distances of an image by `distance_of_maps`, which is LPIPS (Zhang et
    al. 2018, arXiv 1801.03924, eq. 1) with all weights 1 and not the published LPIPS, and by
    `texture_of_maps`; and the distances of sets of images, `metrics.frechet` and `metrics.kid` of
    their tiles. The Frechet distance of few tiles is biased upwards, KID is not; neither is
    comparable with those by Inception.
    """

    key: str
    sha256: str  # of the weights
    stages: Callable[[Tensor], Sequence[Tensor]]
    kinds: tuple[str, ...] = (*_OF_IMAGES, *_OF_SETS)

    @property
    def image_metrics(self) -> tuple[str, ...]:
        return tuple(f"{kind}_{self.key}" for kind in _OF_IMAGES if kind in self.kinds)

    @torch.inference_mode()
    def verdict(self, high: Pixels, outputs: Sequence[Pixels]) -> Verdict:
        """Compares outputs with the high resolution, u8[h, w, 3] each, by one pass of every image.

        Images go in batches of up to a megapixel. Same images, same bytes; an output equal to
        `high` has the distances 0.
        """
        images = torch.cat([as_tensor(image) for image in (high, *outputs)])
        truth: list[Tensor] = []
        found: dict[str, list[Tensor]] = {kind: [] for kind in (*_OF_IMAGES, "tiles")}
        for batch in torch.split(images, max(1, _BATCH_PX // high[..., 0].size)):
            maps = [batch, *self.stages(batch)]
            truth = truth or [each[:1].clone() for each in maps]
            found["distance"].append(distance_of_maps(maps[1:], truth[1:]))
            if "texture" in self.kinds:
                found["texture"].append(texture_of_maps(maps, truth))
            found["tiles"].append(_tiles(maps[-1], high))
        scores = {
            f"{kind}_{self.key}": torch.cat(found[kind])[1:].tolist()
            for kind in _OF_IMAGES
            if kind in self.kinds
        }
        return Verdict(scores, torch.cat(found["tiles"]).numpy())

    def of_sets(self, these: _F64, those: _F64) -> dict[str, float]:
        """Computes the distances of two sets of tiles, f64[n, d], row by row of the same places.

        None for fewer than two.
        """
        if len(these) < 2:
            return {}
        measures = {"fid": frechet, "kid": kid}
        return {
            f"{kind}_{self.key}": measures[kind](these, those)
            for kind in _OF_SETS
            if kind in self.kinds
        }


def find_judges(
    others: Sequence[str] = (), vgg19: Path | None = None, resnext101: Path | None = None
) -> list[Judge]:
    """The independent judge if its package is installed, the histology encoder, and further ones.

    `others` are ARCHITECTURE=FILE as in `Architecture.find`, or efficientnet-lite0, which has its
    own package. Raises RefusedError where one cannot be had, or two have the same key.
    """
    judges = [*_independent(), _encoder()]
    if vgg19 is not None:
        network = vgg19_features(vgg19, normalised=True, stages=True)
        judges.append(Judge("vgg19", sha256_of(vgg19), _frozen(network)))
    if resnext101 is not None:
        architecture = Architecture.find("torchvision/resnext101_32x8d")
        stages = _frozen(network_stages(architecture, resnext101))
        judges.append(Judge("resnext101", sha256_of(resnext101), stages))
    judges += map(_given, others)
    keys = [judge.key for judge in judges]
    for key in keys:
        if keys.count(key) > 1:
            raise RefusedError(f"two judges are named {key}: give only one of them")
    return judges


def texture_of_maps(these: Sequence[Tensor], those: Sequence[Tensor]) -> Tensor:
    """DISTS (Ding et al. 2020, arXiv 2004.07728, eqs. 5 to 8) with equal weights: f32[n] in 0..2.

    The first maps are the images themselves, as in the paper. Every stage weighs the same, and in
    it every channel; means, variances and covariance are of whole maps. 0 if equal.
    """
    pairs = zip(these, those, strict=True)
    return torch.stack([_texture_difference(*pair) for pair in pairs]).mean(0)


def _texture_difference(a: Tensor, b: Tensor) -> Tensor:
    """1 - (l + s) / 2 of each channel (eqs. 6 and 7), averaged: [n, c, h, w] -> [n]."""
    mean_a, mean_b = (each.mean((2, 3), keepdim=True) for each in (a, b))
    off_a, off_b = a - mean_a, b - mean_b
    variances = (off_a.square().mean((2, 3)), off_b.square().mean((2, 3)))
    mean_a, mean_b = mean_a.flatten(1), mean_b.flatten(1)
    texture = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    covariance = (off_a * off_b).mean((2, 3))
    structure = (2 * covariance + _C2) / (variances[0] + variances[1] + _C2)
    return ((1 - texture) + (1 - structure)).mean(1) / 2


def _tiles(last: Tensor, image: Pixels) -> Tensor:
    """Means of the last map over the image's 64 px tiles: [n, d, h', w'] -> [n, tiles, d]."""
    rows, columns = (max(1, side // _TILE_PX) for side in image.shape[:2])
    return F.adaptive_avg_pool2d(last, (rows, columns)).flatten(2).transpose(1, 2)


def _independent() -> list[Judge]:
    try:
        digest, network = sha256_of(efficientnet_lite_file(2)), efficientnet_lite(2)
    except RefusedError as error:
        logger.warning("%s (%s)", NO_JUDGE, error)
        return []
    return [Judge(INDEPENDENT, digest, _frozen(network))]


def _encoder() -> Judge:
    path = find_encoder()
    return Judge(ENCODER, sha256_of(path), _frozen(read_encoder(path)[1]), ("distance", "fid"))


def _given(text: str) -> Judge:
    name, equals, file = text.partition("=")
    if text == _LITE0:
        return Judge("lite0", sha256_of(efficientnet_lite_file(0)), _frozen(efficientnet_lite(0)))
    if not (equals and Path(file).is_file()):
        raise RefusedError(
            f"--judge {text}: give ARCHITECTURE=FILE with the file of its weights, for example"
            f" torchvision/resnet50=resnet50.pth, or {_LITE0}"
        )
    architecture = Architecture.find(name)
    stages = _frozen(network_stages(architecture, Path(file)))
    return Judge(architecture.name, sha256_of(Path(file)), stages)


def _frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()
