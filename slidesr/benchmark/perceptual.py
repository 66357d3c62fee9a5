"""How alike images look to a network: of two images, and of two sets of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slidesr.geometry import Pixels
from slidesr.model.imagenet import resnext101_features, vgg19_features
from slidesr.model.weights import find_encoder, read_encoder
from slidesr.nets.encoder import distance_of_maps
from slidesr.nets.layers import as_tensor

_TILE_PX = 64
LEAST_PX = _TILE_PX  # a side of an image that has an embedding

_F64 = NDArray[np.float64]


class PerceptualMetric:
    """The histology encoder as a judge, and VGG19 beside it where its weights are given.

    Their distances have the form of LPIPS (Zhang et al. 2018, arXiv 1801.03924) with all weights 1:
    they are no LPIPS, as the Frechet distance of these embeddings is no FID of Inception's.
    """

    def __init__(self, vgg19: Path | None = None) -> None:
        """`vgg19` as for `nets.imagenet.vgg19_features`; RefusedError where it is no such file."""
        self._encoder = read_encoder(find_encoder())[1]
        self._judges: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {"distance": self._encoder}
        if vgg19 is not None:
            network = vgg19_features(vgg19, normalised=True, stages=True)
            self._judges["vgg19_distance"] = network.requires_grad_(False).eval()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of its distances."""
        return tuple(self._judges)

    @torch.inference_mode()
    def distances(self, images: Sequence[Pixels], reference: Pixels) -> dict[str, list[float]]:
        """Each distance of each image, u8[h, w, 3], from the reference; 0 if equal."""
        found = {}
        for name, maps in self._judges.items():
            truth = maps(as_tensor(reference))
            each = (distance_of_maps(maps(as_tensor(image)), truth) for image in images)
            found[name] = [float(distance) for distance in each]
        return found

    @torch.inference_mode()
    def embeddings(self, image: Pixels) -> _F64:
        """f64[n, d], one of each whole tile of 64 px of u8[h, w, 3], for `metrics.frechet`."""
        pixels = as_tensor(image)
        rows, columns = (length // _TILE_PX for length in pixels.shape[2:])
        tiles = pixels[:, :, : rows * _TILE_PX, : columns * _TILE_PX]
        tiles = tiles.unfold(2, _TILE_PX, _TILE_PX).unfold(3, _TILE_PX, _TILE_PX)
        batch = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, _TILE_PX, _TILE_PX)
        embedded: _F64 = self._encoder.embedding(batch).double().numpy()
        return embedded

    def features(self, image: Pixels) -> _F64:
        """What a classifier may judge by: `embeddings`, pooled over the tiles: f64[2 * d]."""
        return pooled(self.embeddings(image))


class ResNeXt:
    """The classifier of the paper's downstream test, as a judge."""

    def __init__(self, weights: Path) -> None:
        """As `nets.imagenet.resnext101_features`."""
        self._network = resnext101_features(weights).requires_grad_(False).eval()

    @torch.inference_mode()
    def features(self, image: Pixels) -> _F64:
        """What a classifier may judge u8[h, w, 3] by: f64[2048]."""
        features: _F64 = self._network(as_tensor(image))[0].double().numpy()
        return features


def pooled(embeddings: _F64) -> _F64:
    """[tiles, d] -> [2 * d]: mean and spread over the tiles."""
    return np.concatenate([embeddings.mean(axis=0), embeddings.std(axis=0)])
