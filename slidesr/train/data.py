"""Training patches: augmented random crops of images held in memory, and their low resolution."""

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
from slidesr.imaging.augmentation import drawn_jitter, drawn_rectangle, turned
from slidesr.imaging.degradation import Scanner, compressed, scanned
from slidesr.imaging.resample import bicubic_down, through_jpeg2000
from slidesr.slide.image_files import group_of, image_paths, read_rgb

_log = logging.getLogger(__name__)
_DEGRADATIONS = ("bicubic", "scanner", "levels")


@dataclass(frozen=True)
class DataRecipe:
    """How patches are drawn and augmented. Sizes are in high-resolution pixels.

    `degradation` selects the source of the low resolution: Pillow's antialiased "bicubic" at 8 bits
    (the paper's protocol), a simulated "scanner", or "levels", the next pyramid level of the slide
    as written by `slidesr patches --pairs` next to DATA.
    """

    patch_px: int = 128
    context_px: int = (
        16  # margin drawn around a patch to avoid border effects in the low resolution
    )
    weights: dict[str, float] = field(
        default_factory=dict
    )  # sampling weight by top folder, times area; default 1
    stain_jitter: float = 0.0  # largest relative change of a stain's density (Tellez 2018)
    colour_jitter: float = 0.0  # largest relative change of a colour channel's gain and black level
    ihc_share: float = 0.0  # share of patches whose eosin is recoloured as the DAB of IHC
    cutmix_share: float = 0.0  # share of patches with a rectangle of another patch in them
    degradation: str = "bicubic"
    scanner: Scanner = field(default_factory=Scanner)
    jpeg_share: float = 0.0  # share of JPEG-compressed low-resolution patches, not with "levels"
    jpeg_quality: tuple[int, int] = (30, 95)  # lowest and highest, drawn uniformly
    jpeg2000_share: float = 0.0  # share of JPEG 2000, besides that of JPEG; not with "levels"
    jpeg2000_ratio: tuple[float, float] = (8.0, 24.0)  # bytes before to after, drawn uniformly

    def __post_init__(self) -> None:
        if self.patch_px < 1 or self.context_px < 0:
            raise ValueError("patch_px must be positive, context_px at least 0")
        for key in ("stain_jitter", "colour_jitter"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} {getattr(self, key)} is not in [0, 1)")
        for key in ("ihc_share", "jpeg_share", "jpeg2000_share", "cutmix_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} {getattr(self, key)} is not in [0, 1]")
        allowed = [value for value in self.jpeg_quality if value in range(1, 101)]
        if len(allowed) != 2 or allowed != sorted(self.jpeg_quality):
            raise ValueError("jpeg_quality must be two integers in 1..100, the lower first")
        ratio = self.jpeg2000_ratio
        if len(ratio) != 2 or not 1 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError("jpeg2000_ratio must be two numbers above 1, the lower first")
        if self.jpeg_share + self.jpeg2000_share > 1:
            raise ValueError("jpeg_share and jpeg2000_share are more than 1 together")
        if self.degradation not in _DEGRADATIONS:
            raise ValueError(f"degradation {self.degradation!r} is not one of {_DEGRADATIONS}")
        if self.degradation != "scanner" and self.scanner != Scanner():
            raise ValueError("[data.scanner] requires degradation = 'scanner'")
        if self.degradation == "levels" and self.jpeg_share + self.jpeg2000_share:
            raise ValueError(
                "jpeg_share and jpeg2000_share must be 0 with degradation 'levels', whose images"
                " are used as stored"
            )

    @property
    def sees_jpeg(self) -> bool:
        """Whether some low-resolution inputs are JPEG-compressed."""
        return self.jpeg_share > 0 or self.degradation == "levels"


@dataclass(frozen=True)
class PatchPair:
    """High and low resolution of the same patches: f32[n, 3, h*s, w*s], f32[n, 3, h, w] in 0..1.

    Channels are last in memory.
    """

    high: Tensor
    low: Tensor


def joined(parts: Sequence[PatchPair]) -> PatchPair:
    """Puts the patches of several pairs one after another."""
    if len(parts) == 1:
        return parts[0]
    return PatchPair(
        torch.cat([part.high for part in parts]), torch.cat([part.low for part in parts])
    )


@dataclass(frozen=True)
class _Image:
    high: Pixels  # [h, w, 3]
    low: Pixels | None  # [h / s, w / s, 3]: the slide's next level, if used as low resolution


class PatchSampler:
    """Draws random patches; patch k depends only on the seed and k, so it is thread-safe.

    An image is drawn with probability proportional to its area times its top folder's weight; one
    too small for a patch is mirrored at its edges. All images below `folder` with a nonzero weight
    are kept decoded in memory: 3 bytes per pixel, times 1 + 1/scale^2 with degradation "levels".
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
        """Draws patches `first` to `first + count - 1` of the run."""
        highs, lows = zip(*map(self._patch, range(first, first + count)), strict=True)
        return PatchPair(tensor_from_images(highs), tensor_from_images(lows))

    def _patch(self, number: int) -> tuple[Pixels, Pixels]:
        recipe, scale = self._recipe, self._scale
        rng = np.random.default_rng((self._seed, number))
        high, low = self._crop(rng)
        if recipe.cutmix_share and rng.random() < recipe.cutmix_share:
            place = drawn_rectangle(self._need_px // scale, rng)
            other_high, other_low = self._crop(rng)
            high[(place * scale).slices] = other_high[(place * scale).slices]
            if low is not None and other_low is not None:
                low[place.slices] = other_low[place.slices]
        low = self._degraded(high, rng) if low is None else low
        return _trimmed(high, recipe.context_px), _trimmed(low, recipe.context_px // scale)

    def _crop(self, rng: np.random.Generator) -> tuple[Pixels, Pixels | None]:
        """Draws a place, and turns and colours it; with the slide's own low resolution if used."""
        recipe, scale = self._recipe, self._scale
        image = self._images[int(self._until.searchsorted(rng.random(), side="right"))]
        step_px = 1 if image.low is None else scale
        place = self._random_box(image, step_px, rng)
        quarter_turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        jitter = drawn_jitter(
            recipe.stain_jitter, recipe.colour_jitter, rng, ihc_share=recipe.ihc_share
        )

        def augmented(crop: Pixels) -> Pixels:
            return jitter.applied(turned(crop, quarter_turns, mirrored=mirrored))

        high = augmented(image.high[(place * step_px).slices])
        return high, None if image.low is None else augmented(image.low[place.slices])

    def _random_box(self, image: _Image, step_px: int, rng: np.random.Generator) -> Box:
        """Draws the location of a patch, in units of `step_px`."""
        side = self._need_px // step_px
        y, x = (int(rng.integers(px // step_px - side + 1)) for px in image.high.shape[:2])
        return Box(x, y, side, side)

    def _degraded(self, high: Pixels, rng: np.random.Generator) -> Pixels:
        if self._recipe.degradation == "scanner":
            low = scanned(high, self._scale, self._recipe.scanner, rng)
        else:
            low = bicubic_down(high, self._scale)
        recipe, chance = self._recipe, rng.random()
        if chance < recipe.jpeg_share:
            return compressed(low, recipe.jpeg_quality, rng)
        if chance < recipe.jpeg_share + recipe.jpeg2000_share:
            return through_jpeg2000(low, rng.uniform(*recipe.jpeg2000_ratio))
        return low

    def _read(self, path: Path, folder: Path) -> _Image:
        high, low = read_large_enough(path, self._need_px), None
        rows, columns = mirrored_px(high.shape, self._need_px)
        if self._recipe.degradation == "levels":
            low = _read_partner(path, high, folder, self._scale)
            low = mirrored(low, rows // self._scale, columns // self._scale)
        return _Image(mirrored(high, rows, columns), low)


def read_large_enough(path: Path, need_px: int) -> Pixels:
    """Reads an image. Raises RefusedError if it has less than half the side of a patch."""
    image = read_rgb(path)
    if min(image.shape[:2]) < need_px / 2:
        raise RefusedError(
            f"{path}: smaller than half of the {need_px} px of a patch. Exclude its folder with a"
            " weight of 0 in [data.weights]."
        )
    return image


def mirrored_px(shape: Sequence[int], need_px: int) -> tuple[int, int]:
    """How far an image is mirrored at each edge: not at all if a patch with its context fits.

    Otherwise to a quarter more than that, so that patches still have different places. Multiples of
    16, hence of every scale.

    >>> mirrored_px((256, 300, 3), 288)
    (64, 0)
    """
    lacking = ((need_px * 5 / 4 - side) / 2 if side < need_px else 0 for side in shape[:2])
    rows, columns = (16 * math.ceil(px / 16) for px in lacking)
    return rows, columns


def mirrored(image: Pixels, rows: int, columns: int) -> Pixels:
    """Mirrors an image [h, w, 3] at its edges; the pixels at the edge are repeated."""
    return np.pad(image, ((rows, rows), (columns, columns), (0, 0)), "symmetric")


def weighted_images(folder: Path, by_top: dict[str, float]) -> dict[Path, float]:
    """Returns the images below a folder that have a nonzero weight, with their weights.

    Raises RefusedError if a weight is negative or infinite, or all are zero.
    """
    tops = {path: group_of(path, folder) for path in image_paths(folder)}
    unknown = sorted(set(by_top) - set(tops.values()))
    if unknown:
        _log.warning("%s: [data.weights] names missing folders: %s", folder, ", ".join(unknown))
    weights = {path: by_top.get(top, 1.0) for path, top in tops.items()}
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise RefusedError(f"{folder}: weights must be finite and non-negative, and not all zero")
    return {path: weight for path, weight in weights.items() if weight}


def _read_partner(path: Path, high: Pixels, folder: Path, scale: int) -> Pixels:
    """Reads the same place from the slide's level that is `scale` times coarser."""
    levels = folder.absolute().with_name(f"{folder.absolute().name}.x{scale}")
    partner = levels / path.relative_to(folder)
    hint = f"Write both with `slidesr patches --pairs {scale}`."
    if not partner.is_file():
        raise RefusedError(
            f"{partner}: missing; it is the x{scale} coarser partner of {path}. {hint}"
        )
    low = read_rgb(partner)
    if (low.shape[0] * scale, low.shape[1] * scale) != high.shape[:2]:
        raise RefusedError(f"{partner}: not 1/{scale} of {path} in size. {hint}")
    return low


def _trimmed(image: Pixels, margin: int) -> Pixels:
    return image[margin : image.shape[0] - margin, margin : image.shape[1] - margin]


def tensor_from_images(images: Sequence[Pixels]) -> Tensor:
    """Converts images u8[h, w, 3] to f32[n, 3, h, w] in 0..1, channels last in memory."""
    pixels = np.empty((len(images), *images[0].shape), np.float32)
    for image, place in zip(images, pixels, strict=True):
        np.divide(image, np.float32(255), out=place)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
