"""How alike images look to a network that knows H&E: of two images, and of two sets of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slidesr.nets.encoder import distance_of_maps, perceptual_distance
from slidesr.weights import find_encoder, read_encoder

_TILE_PX = 64
LEAST_PX = _TILE_PX  # a side of an image that has an embedding

_U8 = NDArray[np.uint8]
_F64 = NDArray[np.float64]


class Eye:
    """The histology encoder as a judge. Its numbers are no LPIPS and no FID of Inception's."""

    def __init__(self) -> None:
        self._encoder = read_encoder(find_encoder())[1]

    @torch.inference_mode()
    def distance(self, image: _U8, reference: _U8) -> float:
        """In LPIPS' form (Zhang et al. 2018, arXiv 1801.03924), u8[h, w, 3] both; 0 if equal."""
        return float(perceptual_distance(self._encoder, _tensor(image), _tensor(reference)))

    @torch.inference_mode()
    def distances(self, images: Sequence[_U8], reference: _U8) -> list[float]:
        """`distance` of each image, in less time."""
        truth = self._encoder(_tensor(reference))
        return [float(distance_of_maps(self._encoder(_tensor(image)), truth)) for image in images]

    @torch.inference_mode()
    def embeddings(self, image: _U8) -> _F64:
        """f64[n, d], one of each whole tile of 64 px of u8[h, w, 3], for `metrics.frechet`."""
        pixels = _tensor(image)
        rows, columns = (length // _TILE_PX for length in pixels.shape[2:])
        tiles = pixels[:, :, : rows * _TILE_PX, : columns * _TILE_PX]
        tiles = tiles.unfold(2, _TILE_PX, _TILE_PX).unfold(3, _TILE_PX, _TILE_PX)
        batch = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, _TILE_PX, _TILE_PX)
        embedded: _F64 = self._encoder.embedding(batch).double().numpy()
        return embedded


def _tensor(image: _U8) -> Tensor:
    """u8[h, w, 3] -> f32[1, 3, h, w] in 0..1."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
