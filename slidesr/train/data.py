"""Training patches: random, augmented crops of images in memory, with their low resolution."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Pixels
from slidesr.imaging.degradation import Scanner, compressed, scanned
from slidesr.imaging.image_files import group_of, image_paths, read_rgb
from slidesr.imaging.resample import bicubic_down
from slidesr.train.stain_augmentation import drawn_jitter

_log = logging.getLogger(__name__)
_DEGRADATIONS = ("bicubic", "scanner", "levels")


@dataclass(frozen=True)
class DataRecipe:
    """Which patches are drawn and how they are augmented. Sizes are high-resolution pixels.

    The low resolution is Pillow's antialiased "bicubic" reduction at 8 bits, the paper's protocol,
    or a simulated "scanner", or with "levels" the slide's own coarser level, which `slidesr
    patches` writes beside DATA.
    """

    patch_px: int = 128
    context_px: int = 16  # margin around a patch, so that its low resolution has no border effect
    weights: dict[str, float] = field(default_factory=dict)  # by top folder, by area; 1 if absent
    stain_jitter: float = 0.0  # largest relative change of a stain's density (Tellez 2018)
    colour_jitter: float = 0.0  # largest relative change of a colour channel's gain and black level
    degradation: str = "bicubic"
    scanner: Scanner = field(default_factory=Scanner)
    jpeg_share: float = 0.0  # share of low resolutions that are compressed as the last step
    jpeg_quality: tuple[int, int] = (30, 95)  # worst and best, drawn evenly

    def __post_init__(self) -> None:
        if self.patch_px < 1 or self.context_px < 0:
            raise ValueError("patch_px must be positive, context_px at least 0")
        for key in ("stain_jitter", "colour_jitter"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} {getattr(self, key)} is not at least 0 and below 1")
        if not 0 <= self.jpeg_share <= 1:
            raise ValueError(f"jpeg_share {self.jpeg_share} is not within 0..1")
        allowed = [value for value in self.jpeg_quality if value in range(1, 101)]
        if len(allowed) != 2 or allowed != sorted(self.jpeg_quality):
            raise ValueError("jpeg_quality must be two of 1..100, the worse one first")
        if self.degradation not in _DEGRADATIONS:
            raise ValueError(f"degradation {self.degradation!r} is not one of {_DEGRADATIONS}")
        if self.degradation != "scanner" and self.scanner != Scanner():
            raise ValueError("[data.scanner] is for the degradation 'scanner'")
        if self.degradation == "levels" and self.jpeg_share:
            raise ValueError(
                "jpeg_share must be 0 with levels, which are taken as stored in the slide"
            )

    @property
    def sees_jpeg(self) -> bool:
        """Whether the network sees low resolutions that were JPEG-compressed."""
        return self.jpeg_share > 0 or self.degradation == "levels"


@dataclass(frozen=True)
class PatchPair:
    """High and low resolution of the same patches: f32[n, 3, h*s, w*s], f32[n, 3, h, w] in 0..1.

    Both are channels_last.
    """

    high: Tensor
    low: Tensor


@dataclass(frozen=True)
class _Image:
    high: Pixels  # [h, w, 3]
    low: Pixels | None  # [h / s, w / s, 3], if the slide's own level is the low resolution


class PatchSampler:
    """Draws random patches; patch k is a function of the seed and k alone, in any thread.

    An image is drawn with a probability proportional to its area times its top folder's weight. All
    images below `folder` with a nonzero weight are held decoded: 3 bytes per pixel, 1 + 1/scale^2
    times that with "levels".
    """

    def __init__(self, folder: Path, recipe: DataRecipe, *, scale: int, seed: int) -> None:
        self._recipe, self._scale, self._seed = recipe, scale, seed
        self._need_px = recipe.patch_px + 2 * recipe.context_px
        weights = weighted_images(folder, recipe.weights)
        self._images = [self._read(path, folder) for path in weights]
        areas = [image.high.shape[0] * image.high.shape[1] for image in self._images]
        until = np.cumsum(np.multiply(areas, list(weights.values())))
        self._until = until / until[-1]

    def draw(self, first: int, count: int) -> PatchPair:
        """Draws the patches `first` to `first + count - 1` of the run."""
        highs, lows = zip(*map(self._patch, range(first, first + count)), strict=True)
        return PatchPair(tensor_from_images(highs), tensor_from_images(lows))

    def _patch(self, number: int) -> tuple[Pixels, Pixels]:
        recipe, scale = self._recipe, self._scale
        rng = np.random.default_rng((self._seed, number))
        image = self._images[int(self._until.searchsorted(rng.random(), side="right"))]
        step_px = 1 if image.low is None else scale
        place = self._drawn_place(image, step_px, rng)
        quarter_turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        jitter = drawn_jitter(recipe.stain_jitter, recipe.colour_jitter, rng)

        def augmented(crop: Pixels) -> Pixels:
            return jitter.applied(turned(crop, quarter_turns, mirrored=mirrored))

        high = augmented(image.high[(place * step_px).slices])
        low = self._degraded(high, rng) if image.low is None else augmented(image.low[place.slices])
        return _trimmed(high, recipe.context_px), _trimmed(low, recipe.context_px // scale)

    def _drawn_place(self, image: _Image, step_px: int, rng: np.random.Generator) -> Box:
        """Draws a square with context, in units of `step_px`."""
        side = self._need_px // step_px
        y, x = (int(rng.integers(px // step_px - side + 1)) for px in image.high.shape[:2])
        return Box(x, y, side, side)

    def _degraded(self, high: Pixels, rng: np.random.Generator) -> Pixels:
        if self._recipe.degradation == "scanner":
            low = scanned(high, self._scale, self._recipe.scanner, rng)
        else:
            low = bicubic_down(high, self._scale)
        if rng.random() < self._recipe.jpeg_share:
            low = compressed(low, self._recipe.jpeg_quality, rng)
        return low

    def _read(self, path: Path, folder: Path) -> _Image:
        high = read_rgb(path)
        if min(high.shape[:2]) < self._need_px:
            raise RefusedError(
                f"{path}: smaller than the {self._need_px} px that are drawn. Exclude its folder"
                " with a weight of 0 in [data.weights]."
            )
        if self._recipe.degradation != "levels":
            return _Image(high, None)
        return _Image(high, _read_partner(path, high, folder, self._scale))


def weighted_images(folder: Path, by_top: dict[str, float]) -> dict[Path, float]:
    """The images below a folder that have a nonzero weight, with their weights."""
    tops = {path: group_of(path, folder) for path in image_paths(folder)}
    unknown = sorted(set(by_top) - set(tops.values()))
    if unknown:
        _log.warning("%s: [data.weights] names missing folders: %s", folder, ", ".join(unknown))
    weights = {path: by_top.get(top, 1.0) for path, top in tops.items()}
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise RefusedError(f"{folder}: the weights must be finite, at least 0, and not all 0")
    return {path: weight for path, weight in weights.items() if weight}


def _read_partner(path: Path, high: Pixels, folder: Path, scale: int) -> Pixels:
    """Reads the same region from the slide's level that is `scale` times coarser."""
    levels = folder.absolute().with_name(f"{folder.absolute().name}.x{scale}")
    partner = levels / path.relative_to(folder)
    cure = f"Write both with `slidesr patches --pairs {scale}`."
    if not partner.is_file():
        raise RefusedError(f"{partner}: missing; the x{scale} coarser level of {path}. {cure}")
    low = read_rgb(partner)
    if (low.shape[0] * scale, low.shape[1] * scale) != high.shape[:2]:
        raise RefusedError(f"{partner}: not 1/{scale} of {path} in size. {cure}")
    return low


def turned(crop: Pixels, quarter_turns: int, *, mirrored: bool) -> Pixels:
    """One of the eight rotations and reflections of a square."""
    rotated = np.rot90(crop, quarter_turns)
    return rotated[:, ::-1] if mirrored else rotated


def _trimmed(image: Pixels, margin: int) -> Pixels:
    return image[margin : image.shape[0] - margin, margin : image.shape[1] - margin]


def tensor_from_images(images: Sequence[Pixels]) -> Tensor:
    """u8[h, w, 3] each -> f32[n, 3, h, w] in 0..1, channels_last."""
    pixels = np.empty((len(images), *images[0].shape), np.float32)
    for image, place in zip(images, pixels, strict=True):
        np.divide(image, np.float32(255), out=place)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
