"""Draws, augments and downsamples training patches on the GPU, faster than CPU threads can.

The distribution is that of `slidesr.train.data.PatchSampler` with degradation "bicubic"; the random
numbers differ. Downsampling agrees to one grey level, JPEG to half a level on average.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.imaging.augmentation import rgb_from_ihc
from slidesr.train.data import (
    DataRecipe,
    PatchPair,
    mirrored,
    mirrored_px,
    read_large_enough,
    weighted_images,
)

_BLOCK_PX = 16  # JPEG minimum coded unit with 4:2:0
_YCC_FROM_RGB = (  # JFIF 1.02; 128 is added to chroma
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


def can_draw(recipe: DataRecipe) -> bool:
    """Whether all that the recipe asks for can be done on the device."""
    return recipe.degradation == "bicubic" and not recipe.jpeg2000_share


class DeviceSampler:
    """Draws whole batches; a batch depends only on the seed and `first`.

    An image is drawn with probability proportional to its area times its top folder's weight. All
    images are kept decoded in device memory, 3 bytes per pixel.
    """

    def __init__(
        self, folder: Path, recipe: DataRecipe, *, scale: int, seed: int, device: torch.device
    ) -> None:
        if not can_draw(recipe):
            raise RefusedError("only bicubic reductions, JPEG-compressed or not, are made on a GPU")
        self._recipe, self._scale, self._seed, self._device = recipe, scale, seed, device
        self._need_px = recipe.patch_px + 2 * recipe.context_px
        weights = weighted_images(folder, recipe.weights)
        stored = [read_large_enough(path, self._need_px) for path in weights]
        images = [mirrored(each, *mirrored_px(each.shape, self._need_px)) for each in stored]
        self._pixels = torch.cat([torch.from_numpy(each).reshape(-1, 3) for each in images])
        self._pixels = self._pixels.to(device)
        sides = np.array([each.shape[:2] for each in images])
        areas = sides.prod(1)
        self._heights, self._widths = (torch.tensor(side, device=device) for side in sides.T)
        self._starts = torch.tensor(np.cumsum(areas) - areas, device=device)
        until = np.cumsum(areas * np.array(list(weights.values())))
        self._until = torch.tensor(until / until[-1], dtype=torch.float64, device=device)
        self._stains_from_rgb = torch.tensor(hed_from_rgb, dtype=torch.float32, device=device)
        self._rgb_from_stains, self._rgb_from_ihc = (
            torch.tensor(colours, dtype=torch.float32, device=device)
            for colours in (rgb_from_hed, rgb_from_ihc)
        )
        self._reduction = _bicubic_matrix(self._need_px, scale).to(device)

    def draw(self, first: int, count: int) -> PatchPair:
        """Draws `count` patches, f32[n, 3, h, w] in 0..1 on the device, channels last."""
        state = np.random.SeedSequence((self._seed, first)).generate_state(1, np.uint64)[0]
        rng = torch.Generator(self._device).manual_seed(int(state >> np.uint64(1)))
        high = self._jittered(self._cropped(count, rng), rng)
        if self._recipe.cutmix_share:
            high = self._mixed(high, self._jittered(self._cropped(count, rng), rng), rng)
        low = reduced(high, self._reduction)
        if self._recipe.jpeg_share:
            low = self._compressed(low, rng)
        context_px = self._recipe.context_px
        return PatchPair(_trimmed(high, context_px), _trimmed(low, context_px // self._scale))

    def _uniform(self, rng: torch.Generator, *shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=self._device)

    def _cropped(self, count: int, rng: torch.Generator) -> Tensor:
        """Draws random crops in one of eight orientations: f32[n, h, w, 3] in 0..255."""
        chance = torch.rand(count, generator=rng, device=self._device, dtype=torch.float64)
        image = torch.searchsorted(self._until, chance, right=True).clamp_(max=len(self._until) - 1)
        height, width = self._heights[image], self._widths[image]
        y = (self._uniform(rng, count) * (height - self._need_px + 1)).long()
        x = (self._uniform(rng, count) * (width - self._need_px + 1)).long()
        turned, flipped, mirrored = self._uniform(rng, 3, count, 1, 1) < 0.5
        rows = torch.arange(self._need_px, device=self._device)[None, :, None]
        columns = rows.transpose(1, 2)
        dy, dx = torch.where(turned, columns, rows), torch.where(turned, rows, columns)
        dy = torch.where(flipped, self._need_px - 1 - dy, dy) + y[:, None, None]
        dx = torch.where(mirrored, self._need_px - 1 - dx, dx) + x[:, None, None]
        place = self._starts[image][:, None, None] + dy * width[:, None, None] + dx
        crops: Tensor = self._pixels[place].float()
        return crops

    def _jittered(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """Jitters stains and colours, each in half of the patches, as `drawn_jitter` does."""
        count = len(image)
        changed = (self._uniform(rng, 2, count, 1) < 0.5).float()
        stain, colour = self._recipe.stain_jitter, self._recipe.colour_jitter
        factors = 1 + changed[0] * stain * (2 * self._uniform(rng, count, 3) - 1)
        colours = self._rgb_from_stains.expand(count, 3, 3)
        if self._recipe.ihc_share:
            as_ihc = self._uniform(rng, count, 1, 1) < self._recipe.ihc_share
            colours = torch.where(as_ihc, self._rgb_from_ihc, colours)
        densities = self._stains_from_rgb * factors[:, None] @ colours
        gain, black = changed[1] * colour * (2 * self._uniform(rng, 2, count, 3) - 1)
        log_densities = ((image + 1) / 256).log().flatten(1, 2)
        jittered = (log_densities @ densities).exp().view_as(image) * 256 - 1
        jittered = jittered * (1 + gain - black)[:, None, None] + (255 * black)[:, None, None]
        rounded: Tensor = jittered.round().clamp(0, 255)
        return rounded

    def _mixed(self, image: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
        """Puts a rectangle of another crop into a share of them, as `drawn_rectangle` does."""
        count, side = len(image), self._need_px // self._scale
        ends = (self._uniform(rng, 2, 2, count) * (side + 1)).long().sort(1).values * self._scale
        at = torch.arange(self._need_px, device=self._device)
        rows, columns = ((first[:, None] <= at) & (at < last[:, None]) for first, last in ends)
        chosen = self._uniform(rng, count, 1, 1) < self._recipe.cutmix_share
        inside = rows[:, :, None] & columns[:, None] & chosen
        return torch.where(inside[..., None], other, image)

    def _compressed(self, low: Tensor, rng: torch.Generator) -> Tensor:
        """JPEG-compresses a share of the patches; the block offset is shared by the batch."""
        count, (worst, best) = len(low), self._recipe.jpeg_quality
        chance = self._uniform(rng, 3, count)
        quality = worst + (chance[0] * (best + 1 - worst)).long()
        row, column = np.random.default_rng(rng.initial_seed()).integers(_BLOCK_PX, size=2)
        stored = through_jpeg_on_device(low, quality, chance[1] < 0.5, (int(row), int(column)))
        return torch.where(chance[2].view(-1, 1, 1, 1) < self._recipe.jpeg_share, stored, low)


def reduced(high: Tensor, matrix: Tensor) -> Tensor:
    """Downsamples both axes like Pillow, rounding after each: f32[n, h, w, 3]."""
    across = torch.einsum("nhwc,lw->nhlc", high, matrix).round().clamp(0, 255)
    return torch.einsum("nhlc,kh->nklc", across, matrix).round().clamp(0, 255)


def through_jpeg_on_device(
    image: Tensor, quality: Tensor, halved: Tensor, offset: tuple[int, int]
) -> Tensor:
    """Simulates JPEG compression of f32[n, h, w, 3] in 0..255; 4:2:0 where `halved`, else 4:4:4.

    `offset` is the position of the image's first pixel within its block. Close to libjpeg but not
    equal, since libjpeg uses integer transforms. Follows ITU T.81, with libjpeg's default
    triangular chroma upsampling.
    """
    luma_tables, chroma_tables = (table.to(image.device)[quality] for table in _tables())
    height, width = image.shape[1:3]
    matrix = torch.tensor(_YCC_FROM_RGB, device=image.device)
    planes = _padded(image.permute(0, 3, 1, 2), offset)
    ycc = torch.einsum("nchw,dc->ndhw", planes, matrix).add_(
        torch.tensor([0.0, 128.0, 128.0], device=image.device).view(3, 1, 1)
    )
    ycc = ycc.round().clamp(0, 255)
    luma = _quantised(ycc[:, :1], luma_tables)
    small = _quantised(F.avg_pool2d(ycc[:, 1:], 2).round(), chroma_tables)
    large = F.interpolate(small, scale_factor=2, mode="bilinear").round()
    chroma = torch.where(halved.view(-1, 1, 1, 1), large, _quantised(ycc[:, 1:], chroma_tables))
    back = torch.cat([luma, chroma - 128], 1)
    rgb = torch.einsum("nchw,dc->nhwd", back, matrix.inverse()).round().clamp(0, 255)
    row, column = offset
    return rgb[:, row : row + height, column : column + width]


def _quantised(planes: Tensor, tables: Tensor) -> Tensor:
    """Quantises the cosine transform of 8 px blocks: f32[n, c, h, w]."""
    count, channels, height, width = planes.shape
    basis = _cosines().to(planes.device)
    blocks = (planes - 128).view(count, channels, height // 8, 8, width // 8, 8)
    table = tables.view(count, 1, 1, 8, 1, 8)
    waves = torch.einsum("ncayxz,uy,vz->ncauxv", blocks, basis, basis)
    waves = (waves / table).round() * table
    back = torch.einsum("ncauxv,uy,vz->ncayxz", waves, basis, basis)
    return (back + 128).round().clamp(0, 255).reshape(planes.shape)


def _padded(planes: Tensor, offset: tuple[int, int]) -> Tensor:
    row, column = offset
    height, width = planes.shape[2:]
    below, right = -(row + height) % _BLOCK_PX, -(column + width) % _BLOCK_PX
    return F.pad(planes, (column, right, row, below), mode="replicate")


def _trimmed(image: Tensor, margin: int) -> Tensor:
    """f32[n, h, w, 3] in 0..255 -> f32[n, 3, h, w] in 0..1, channels last in memory."""
    height, width = image.shape[1:3]
    inner = image[:, margin : height - margin, margin : width - margin]
    return (inner / 255).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


@lru_cache
def _bicubic_matrix(side_px: int, scale: int) -> Tensor:
    """Pillow's antialiased bicubic filter along one axis as a matrix: f32[side / scale, side]."""
    unit = Image.fromarray(np.eye(side_px, dtype=np.float32))
    size = (side_px // scale, side_px)
    return torch.from_numpy(np.array(unit.resize(size, Image.Resampling.BICUBIC)).T.copy())


@lru_cache
def _tables() -> tuple[Tensor, Tensor]:
    """libjpeg's quantisation tables, luma and chroma, by quality: f32[101, 64] each."""
    by_quality = [_tables_at(max(1, quality)) for quality in range(101)]
    luma, chroma = zip(*by_quality, strict=True)
    return torch.tensor(luma, dtype=torch.float32), torch.tensor(chroma, dtype=torch.float32)


def _tables_at(quality: int) -> tuple[Sequence[int], Sequence[int]]:
    stored = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stored, "jpeg", quality=quality)
    tables = Image.open(stored).quantization  # type: ignore[attr-defined]
    return tables[0], tables[1]


@lru_cache
def _cosines() -> Tensor:
    """The orthonormal cosine transform of 8 px: f32[8, 8], one row per frequency."""
    place = torch.arange(8, dtype=torch.float64)
    waves = torch.cos((2 * place + 1) * place[:, None] * torch.pi / 16) / 2
    waves[0] /= 2**0.5
    return waves.float()
