"""Perceptual metrics and embeddings computed with the histology encoder or ImageNet networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slidesr.geometry import Pixels
from slidesr.model.imagenet import vgg19_features
from slidesr.model.weights import find_encoder, read_encoder
from slidesr.nets.encoder import distance_of_maps
from slidesr.nets.layers import as_tensor

_TILE_PX = 64
MIN_SIDE_PX = _TILE_PX  # of an image, to have an embedding

_F64 = NDArray[np.float64]


class PerceptualMetric:
    """Perceptual distances by the histology encoder, and by VGG19 if its weights are given.

    Distances follow LPIPS (Zhang et al. 2018, arXiv 1801.03924) with all weights 1. They are not
    comparable with published LPIPS, nor is the Frechet distance of the embeddings with
    Inception-based FID.
    """

    def __init__(self, vgg19: Path | None = None) -> None:
        """Raises RefusedError unless `vgg19` is a file that `vgg19_features` can read."""
        self._encoder = read_encoder(find_encoder())[1]
        self._networks: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
            "distance": self._encoder
        }
        if vgg19 is not None:
            network = vgg19_features(vgg19, normalised=True, stages=True)
            self._networks["vgg19_distance"] = network.requires_grad_(False).eval()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the distances."""
        return tuple(self._networks)

    @torch.inference_mode()
    def distances(self, images: Sequence[Pixels], reference: Pixels) -> dict[str, list[float]]:
        """Computes each distance of each image, u8[h, w, 3], to the reference; 0 if identical."""
        distances = {}
        for name, maps in self._networks.items():
            truth = maps(as_tensor(reference))
            each = (distance_of_maps(maps(as_tensor(image)), truth) for image in images)
            distances[name] = [float(distance) for distance in each]
        return distances

    @torch.inference_mode()
    def embeddings(self, image: Pixels) -> _F64:
        """Embeds each whole 64 px tile of u8[h, w, 3]: f64[n, d], for `metrics.frechet`."""
        pixels = as_tensor(image)
        rows, columns = (length // _TILE_PX for length in pixels.shape[2:])
        tiles = pixels[:, :, : rows * _TILE_PX, : columns * _TILE_PX]
        tiles = tiles.unfold(2, _TILE_PX, _TILE_PX).unfold(3, _TILE_PX, _TILE_PX)
        batch = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, _TILE_PX, _TILE_PX)
        embedded: _F64 = self._encoder.embedding(batch).double().numpy()
        return embedded
