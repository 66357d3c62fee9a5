"""Perceptual distances and features computed by networks."""

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
LEAST_PX = _TILE_PX  # smallest image side with an embedding

_F64 = NDArray[np.float64]


class PerceptualMetric:
    """Distances by the histology encoder, and by VGG19 if its weights are given.

    They have the form of LPIPS (Zhang et al. 2018, arXiv 1801.03924) with all weights 1, but are
    not LPIPS, just as the Frechet distance of these embeddings is not Inception's FID.
    """

    def __init__(self, vgg19: Path | None = None) -> None:
        """`vgg19` as for `model.imagenet.vgg19_features`."""
        self._encoder = read_encoder(find_encoder())[1]
        self._networks: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
            "distance": self._encoder
        }
        if vgg19 is not None:
            network = vgg19_features(vgg19, normalised=True, stages=True)
            self._networks["vgg19_distance"] = network.requires_grad_(False).eval()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the distances."""
        return tuple(self._networks)

    @torch.inference_mode()
    def distances(self, images: Sequence[Pixels], reference: Pixels) -> dict[str, list[float]]:
        """Each distance of each image, u8[h, w, 3], from the reference; 0 if equal."""
        found = {}
        for name, maps in self._networks.items():
            truth = maps(as_tensor(reference))
            each = (distance_of_maps(maps(as_tensor(image)), truth) for image in images)
            found[name] = [float(distance) for distance in each]
        return found

    @torch.inference_mode()
    def embeddings(self, image: Pixels) -> _F64:
        """Embeds each complete 64 px tile of u8[h, w, 3]: f64[n, d], for `metrics.frechet`."""
        pixels = as_tensor(image)
        rows, columns = (length // _TILE_PX for length in pixels.shape[2:])
        tiles = pixels[:, :, : rows * _TILE_PX, : columns * _TILE_PX]
        tiles = tiles.unfold(2, _TILE_PX, _TILE_PX).unfold(3, _TILE_PX, _TILE_PX)
        batch = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, _TILE_PX, _TILE_PX)
        embedded: _F64 = self._encoder.embedding(batch).double().numpy()
        return embedded

    def features(self, image: Pixels) -> _F64:
        """Features for a classifier: `embeddings` pooled over tiles, f64[2 * d]."""
        return pooled(self.embeddings(image))


class ResNeXt:
    """The feature extractor of the paper's downstream experiment."""

    def __init__(self, weights: Path) -> None:
        """`weights` as for `model.imagenet.resnext101_features`."""
        self._network = resnext101_features(weights).requires_grad_(False).eval()

    @torch.inference_mode()
    def features(self, image: Pixels) -> _F64:
        """Features of u8[h, w, 3] for a classifier: f64[2048]."""
        features: _F64 = self._network(as_tensor(image))[0].double().numpy()
        return features


def pooled(embeddings: _F64) -> _F64:
    """[tiles, d] -> [2 * d]: mean and spread over the tiles."""
    return np.concatenate([embeddings.mean(axis=0), embeddings.std(axis=0)])
