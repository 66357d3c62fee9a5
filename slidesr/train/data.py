"""Training patches: random crops of images held in memory, varied, and made small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.images import group_of, image_paths, read_rgb
from slidesr.resample import through_jpeg
from slidesr.train.recipe import DataRecipe

_U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """High and low resolution of the same patches: f32[n, 3, h*s, w*s], f32[n, 3, h, w] in 0..1."""

    high: Tensor
    low: Tensor


class PatchSampler:
    """Draws random patches, the same ones for the same generator state.

    Every image of `folder` and below is held decoded: memory is 3 bytes a pixel.
    An image is drawn with a chance proportional to its area times its top folder's weight.
    """

    def __init__(self, folder: Path, recipe: DataRecipe, *, scale: int) -> None:
        self._recipe, self._scale = recipe, scale
        self._need_px = recipe.patch_px + 2 * recipe.context_px
        paths = image_paths(folder)
        self._images = [read_rgb(path) for path in paths]
        for path, image in zip(paths, self._images, strict=True):
            if min(image.shape[:2]) < self._need_px:
                raise RefusedError(f"{path}: smaller than the {self._need_px} px that are drawn")
        tops = [group_of(path, folder) for path in paths]
        unknown = set(recipe.weights) - set(tops)
        if unknown:
            raise RefusedError(f"{folder}: no folder {sorted(unknown)[0]!r}, which has a weight")
        chance = np.array(
            [
                _area(image) * recipe.weights.get(top, 1.0)
                for image, top in zip(self._images, tops, strict=True)
            ]
        )
        if not (chance >= 0).all() or chance.sum() == 0:
            raise RefusedError(f"{folder}: the weights must not be negative, nor all zero")
        self._chance = chance / chance.sum()

    @property
    def megapixels(self) -> float:
        """The area of all images."""
        return sum(_area(image) for image in self._images) / 1e6

    def draw(self, count: int, rng: np.random.Generator) -> Pair:
        """Draws `count` patches and their low resolution by the antialiased bicubic protocol."""
        chosen = rng.choice(len(self._images), size=count, p=self._chance)
        crops = np.stack([self._crop(self._images[index], rng) for index in chosen])
        high = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
        low = downsample(high, self._scale)
        if self._recipe.jpeg_share > 0:
            for patch in low:  # views: a mask would give copies
                if rng.random() < self._recipe.jpeg_share:
                    _compress(patch, self._recipe.jpeg_quality, rng)
        margin = self._recipe.context_px
        return Pair(_trim(high, margin) / 255, _trim(low, margin // self._scale) / 255)

    def _crop(self, image: _U8, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        height, width = image.shape[:2]
        row, column = (int(rng.integers(side - self._need_px + 1)) for side in (height, width))
        crop = image[row : row + self._need_px, column : column + self._need_px]
        crop = np.rot90(crop, int(rng.integers(4)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if self._recipe.stain_jitter > 0 and rng.random() < 0.5:
            return _jitter_stain(crop, self._recipe.stain_jitter, rng)
        return crop.astype(np.float32)


def downsample(high: Tensor, scale: int) -> Tensor:
    """Pillow's antialiased bicubic, rounded: f32[n, c, h*s, w*s] -> f32[n, c, h, w], 0..255."""
    low = F.interpolate(high, scale_factor=1 / scale, mode="bicubic", antialias=True)
    return low.round_().clamp_(0, 255)


def _compress(low: Tensor, quality: tuple[int, int], rng: np.random.Generator) -> None:
    """Passes f32[3, h, w] in 0..255 through JPEG in place, its 8 px blocks beginning anywhere."""
    row, column = (int(start) for start in rng.integers(8, size=2))
    part = low[:, row:, column:]
    image = part.permute(1, 2, 0).byte().numpy()
    subsampling = int(rng.choice([0, 2]))  # 4:4:4 as Aperio's, 4:2:0 as most others'
    stored = through_jpeg(
        image, int(rng.integers(*quality, endpoint=True)), subsampling=subsampling
    )
    part.copy_(torch.from_numpy(stored).permute(2, 0, 1))


def _area(image: _U8) -> int:
    height, width, _ = image.shape
    return int(height) * int(width)


def _trim(image: Tensor, margin: int) -> Tensor:
    return image[:, :, margin : image.shape[2] - margin, margin : image.shape[3] - margin]


def _jitter_stain(crop: _U8, amount: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Scales haematoxylin, eosin and the rest apart (Tellez et al. 2018, TMI 37:2126)."""
    factors = 1 + rng.uniform(-amount, amount, 3)
    change = (hed_from_rgb * factors @ rgb_from_hed).astype(np.float32)
    density = -np.log((crop.astype(np.float32) + 1) / 256)
    jittered: npt.NDArray[np.float32] = 256 * np.exp(-(density @ change)) - 1
    return jittered.clip(0, 255).round()
