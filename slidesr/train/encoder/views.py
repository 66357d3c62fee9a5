"""Random views of one place in a section, and degraded copies of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging.augmentation import turned
from slidesr.imaging.resample import bicubic_down, bicubic_up, through_jpeg
from slidesr.slide.image_files import read_rgb
from slidesr.train.data import tensor_from_images, weighted_images

_FACTORS = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class ViewsRecipe:
    """How two views of a place are drawn.

    Both are crops of one square of `crop_px + shift_px`, rotated and stain-jittered independently.
    """

    crop_px: int = 72
    shift_px: int = 36
    stain_jitter: float = 0.2  # largest relative change of a stain's density; a quarter as offset
    weights: dict[str, float] = field(
        default_factory=dict
    )  # sampling weight by top folder, times area; default 1

    def __post_init__(self) -> None:
        if self.crop_px < 24 or self.crop_px % 24:
            raise ValueError(
                f"crop_px {self.crop_px} is not a multiple of 24"
            )  # all _FACTORS divide 24
        if self.shift_px < 0:
            raise ValueError(f"shift_px {self.shift_px} is negative")
        if not 0 <= self.stain_jitter < 1:
            raise ValueError(f"stain_jitter {self.stain_jitter} is not within 0..1")


@dataclass(frozen=True)
class Views:
    """Two views of the same n places and the second one degraded: f32[n, 3, h, w] in 0..1."""

    first: Tensor
    second: Tensor
    degraded: Tensor


class ViewSampler:
    """Draws views, determined by the generator state; all images are kept decoded in memory.

    An image is drawn with probability proportional to its area times its top folder's weight.
    """

    def __init__(self, folder: Path, recipe: ViewsRecipe) -> None:
        self._recipe = recipe
        need_px = recipe.crop_px + recipe.shift_px
        weights = weighted_images(folder, recipe.weights)
        self._images = [read_rgb(path) for path in weights]
        for path, image in zip(weights, self._images, strict=True):
            if min(image.shape[:2]) < need_px:
                raise RefusedError(f"{path}: smaller than the {need_px} px of a view")
        areas = np.array([image.shape[0] * image.shape[1] for image in self._images])
        chance = areas * np.array(list(weights.values()))
        self._chance = chance / chance.sum()

    def draw(self, count: int, rng: np.random.Generator) -> Views:
        """Draws views of `count` random places."""
        chosen = rng.choice(len(self._images), size=count, p=self._chance)
        return self._views([self._images[index] for index in chosen], rng)

    def one_of_each(self, rng: np.random.Generator) -> Views:
        """Draws views of one place per image, ordered by file name."""
        return self._views(self._images, rng)

    def _views(self, images: list[Pixels], rng: np.random.Generator) -> Views:
        first, second, worse = list[Pixels](), list[Pixels](), list[Pixels]()
        for image in images:
            square = _crop(image, self._recipe.crop_px + self._recipe.shift_px, rng)
            first.append(self._view(square, rng))
            second.append(self._view(square, rng))
            worse.append(_randomly_degraded(second[-1], rng))
        return Views(*(tensor_from_images(views) for views in (first, second, worse)))

    def _view(self, square: Pixels, rng: np.random.Generator) -> Pixels:
        crop = _crop(square, self._recipe.crop_px, rng)
        crop = turned(crop, int(rng.integers(4)), mirrored=rng.random() < 0.5)
        return _stain_jittered(crop, self._recipe.stain_jitter, rng)


def degraded(image: Pixels, kind: str, strength: float, rng: np.random.Generator) -> Pixels:
    """Returns a degraded copy, u8[h, w, 3].

    `strength` is the standard deviation of a Gaussian "blur" in pixels or of "noise" in grey
    levels, the factor of "shrink" (down- and upsampling), or the quality of "jpeg".
    """
    if kind == "shrink":
        return bicubic_up(bicubic_down(image, int(strength)), int(strength))
    if kind == "jpeg":
        return through_jpeg(image, int(strength))
    pixels = image.astype(np.float32)
    if kind == "blur":
        pixels = ndimage.gaussian_filter(pixels, strength, axes=(0, 1))
    elif kind == "noise":
        pixels += strength * rng.standard_normal(pixels.shape, dtype=np.float32)
    else:
        raise ValueError(f"{kind!r} is not one of 'shrink', 'jpeg', 'blur', 'noise'")
    return pixels.round().clip(0, 255).astype(np.uint8)


def _randomly_degraded(image: Pixels, rng: np.random.Generator) -> Pixels:
    kind = str(rng.choice(["shrink", "jpeg", "blur", "noise"]))
    strength = {
        "shrink": float(rng.choice(_FACTORS)),
        "jpeg": float(rng.integers(5, 40)),
        "blur": float(np.exp(rng.uniform(np.log(0.7), np.log(3)))),
        "noise": float(rng.uniform(6, 30)),
    }
    return degraded(image, kind, strength[kind], rng)


def _crop(image: Pixels, side_px: int, rng: np.random.Generator) -> Pixels:
    row, column = (int(rng.integers(side - side_px + 1)) for side in image.shape[:2])
    return image[row : row + side_px, column : column + side_px]


def _stain_jittered(crop: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Scales and shifts the density of each stain (Tellez et al. 2018, TMI 37:2126, eq. 1)."""
    factors = 1 + rng.uniform(-amount, amount, 3)
    shifts = rng.uniform(-amount / 4, amount / 4, 3)
    change = hed_from_rgb * factors @ rgb_from_hed
    density = -np.log((crop.astype(np.float32) + 1) / 256)
    changed = density @ change.astype(np.float32) + (shifts @ rgb_from_hed).astype(np.float32)
    pixels: npt.NDArray[np.float32] = 256 * np.exp(-changed) - 1
    return pixels.round().clip(0, 255).astype(np.uint8)
