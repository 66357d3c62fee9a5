"""Label-free evaluation of a perceptual network on images it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.nets.encoder import Encoder, perceptual_distance
from slidesr.slide.image_files import image_paths, read_rgb
from slidesr.train.data import tensor_from_images
from slidesr.train.encoder.views import ViewSampler, ViewsRecipe, degraded

_SIDE_PX = 96
_STRENGTHS = {  # mild to strong, in the units of `degraded`
    "blur": (0.5, 1.0, 2.0, 3.0),
    "shrink": (2.0, 4.0, 8.0),
    "noise": (4.0, 8.0, 16.0, 32.0),
    "jpeg": (80.0, 50.0, 25.0, 10.0),
}


@dataclass(frozen=True)
class EncoderScores:
    """Shares are 0..1; distances are `perceptual_distance`, mean over images."""

    retrieval: float  # share of views whose nearest second view is from the same place
    sharper: float  # share of views closer to the second view than to its degraded copy
    distance: dict[str, dict[str, float]]  # degradation -> strength -> distance from the image
    shift_distance: float  # between an image and itself shifted by one pixel

    @property
    def is_monotone(self) -> bool:
        """Whether the distance increases with the strength of every degradation."""
        rows = [list(by_strength.values()) for by_strength in self.distance.values()]
        return all(row == sorted(row) for row in rows)


@torch.inference_mode()
def score_encoder(encoder: Encoder, folder: Path, recipe: ViewsRecipe) -> EncoderScores:
    """Scores an encoder on all images below a folder; deterministic."""
    rng = np.random.default_rng(0)
    views = ViewSampler(folder, ViewsRecipe(recipe.crop_px, recipe.shift_px)).one_of_each(rng)
    first, second, degraded_views = (
        F.normalize(_embedded(encoder, part), dim=1)
        for part in (views.first, views.second, views.degraded)
    )
    nearest = (first @ second.T).argmax(1).cpu()
    sharper = (first * second).sum(1) > (first * degraded_views).sum(1)
    images = [_centre(path) for path in image_paths(folder)]
    clean = [image[:, :-1] for image in images]
    distance = {
        kind: {
            f"{strength:g}": _mean_distance(
                encoder, clean, [degraded(image, kind, strength, rng) for image in clean]
            )
            for strength in strengths
        }
        for kind, strengths in _STRENGTHS.items()
    }
    return EncoderScores(
        retrieval=float((nearest == torch.arange(len(nearest))).float().mean()),
        sharper=float(sharper.float().mean()),
        distance=distance,
        shift_distance=_mean_distance(encoder, clean, [image[:, 1:] for image in images]),
    )


def _embedded(encoder: Encoder, views: Tensor) -> Tensor:
    device = next(encoder.parameters()).device
    return torch.cat([encoder.embedding(part) for part in torch.split(views.to(device), 16)])


def _mean_distance(encoder: Encoder, these: list[Pixels], those: list[Pixels]) -> float:
    device = next(encoder.parameters()).device
    parts = (torch.split(tensor_from_images(images).to(device), 8) for images in (these, those))
    pairs = zip(*parts, strict=True)
    return float(torch.cat([perceptual_distance(encoder, a, b) for a, b in pairs]).mean())


def _centre(path: Path) -> Pixels:
    """Crops the centre of an image, one pixel wider than high."""
    image = read_rgb(path)
    if min(image.shape[:2]) <= _SIDE_PX:
        raise RefusedError(f"{path}: smaller than the {_SIDE_PX + 1} px needed for scoring")
    row, column = ((side - _SIDE_PX - 1) // 2 for side in image.shape[:2])
    return image[row : row + _SIDE_PX, column : column + _SIDE_PX + 1]
