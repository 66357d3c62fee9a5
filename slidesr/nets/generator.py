"""The generators: WA-SRGAN (Shahidi, IEEE Access 2021, doi 10.1109/ACCESS.2021.3057497) and its
baselines A-SRGAN and SRGAN, which share its structure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, log2

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from slidesr.nets.layers import (
    PlainBlock,
    SubPixelOutput,
    WideBlock,
    WindowAttention,
    added,
    bicubic,
    middle,
    trimmed,
)

_HEAD_RADIUS, _OUTPUT_RADIUS, _BICUBIC_RADIUS = 4, 4, 2
_LARGEST_WINDOW = 128  # cost grows with the fourth power: a tile at 256 px takes minutes
_MOST_WIDE = 1024  # channels inside a block, four times the paper's: 0.6 GB per tile
_BLOCK_RADIUS = {"wide": 1, "plain": 2}
_FUSE_RADIUS = {"wide": 2, "plain": 1}


@dataclass(frozen=True)
class GeneratorSpec:
    """The generator's hyperparameters; the defaults are WA-SRGAN's.

    `block` is "wide" in WA-SRGAN, "plain" in A-SRGAN and SRGAN. `window` is the side of the
    attention windows in low-resolution pixels, that of a training patch; 0 disables attention, as
    in SRGAN. `bicubic_skip` adds the output to the bicubic upscaling of the input instead of
    applying (tanh + 1) / 2. The paper has no such skip; with it, training starts at bicubic's
    quality.
    """

    scale: int
    norm: str = "weight"
    window: int = 64
    bicubic_skip: bool = False
    block: str = "wide"
    channels: int = 64
    blocks: int = 8
    expansion: int = 4

    def __post_init__(self) -> None:
        for entry in fields(self):  # headers and recipes are untrusted
            value = getattr(self, entry.name)
            if type(value).__name__ != entry.type:
                raise ValueError(f"{entry.name} {value!r} is not of type {entry.type}")
        if self.scale not in (2, 4, 8, 16):
            raise ValueError(f"scale {self.scale} is not one of 2, 4, 8, 16")
        if self.norm not in ("weight", "batch"):
            raise ValueError(f"norm {self.norm!r} is not one of 'weight', 'batch'")
        if self.block not in _BLOCK_RADIUS:
            raise ValueError(f"block {self.block!r} is not one of 'wide', 'plain'")
        if not 0 <= self.window <= _LARGEST_WINDOW:
            raise ValueError(f"attention window {self.window} px is not in 0..{_LARGEST_WINDOW}")
        if not (8 <= self.channels <= 512 and self.channels % 8 == 0):
            raise ValueError(f"{self.channels} channels: not a multiple of 8 within 8..512")
        if not (1 <= self.blocks <= 64 and 1 <= self.expansion <= 16):
            raise ValueError(f"{self.blocks} blocks of expansion {self.expansion} are out of range")
        if self.channels * self.expansion > _MOST_WIDE:
            raise ValueError(f"{self.channels} channels, {self.expansion} times as wide: too many")

    @property
    def stages(self) -> int:
        """The number of x2 upsampling stages."""
        return int(log2(self.scale))

    @property
    def body_weights(self) -> int:
        """A lower bound on the weights of the residual blocks, which hold most of the weights."""
        per_channel = 1.8 * self.expansion + 7 if self.block == "wide" else 18
        return int(self.blocks * self.channels**2 * per_channel)

    @property
    def architecture(self) -> str:
        """The published name of the architecture."""
        if self.block == "wide":
            return "WA-SRGAN"
        return "A-SRGAN" if self.window else "SRGAN"

    @property
    def grid_px(self) -> int:
        """Tile positions and sizes are multiples of this, in low-resolution pixels."""
        return max(1, self.window)

    @property
    def features_radius_px(self) -> int:
        """The radius seen before the attention, in low-resolution pixels; 14 in the paper."""
        return _HEAD_RADIUS + self.blocks * _BLOCK_RADIUS[self.block] + _FUSE_RADIUS[self.block]

    @property
    def tail_radius_px(self) -> int:
        """The receptive-field radius after the attention, in low-resolution pixels."""
        radius = _OUTPUT_RADIUS
        for _ in range(self.stages):
            radius = ceil(radius / 2) + 1  # through the pixel shuffle, then a 3x3 convolution
        return max(radius, _BICUBIC_RADIUS) if self.bicubic_skip else radius

    @property
    def phase_px(self) -> int:
        """The offset of attention windows from the tile grid: half a window.

        Tile borders then run through the middle of windows, and the receptive field of the tail
        stays inside windows that the tile needs anyway. With aligned grids each tile would need one
        more window on every side.
        """
        return self.window // 2 if self.window % 2 == 0 else 0

    def margin_px(self, beyond_px: int = 0) -> int:
        """`tail_radius_px + beyond_px`, extended to the next window border."""
        beyond = self.tail_radius_px + beyond_px - self.phase_px
        return self.phase_px + ceil(max(0, beyond) / self.grid_px) * self.grid_px

    @property
    def halo_px(self) -> int:
        """The halo in low-resolution pixels: receptive field plus whole attention windows."""
        return self.halo_for(0)

    def halo_for(self, beyond_px: int) -> int:
        """The halo of a tile whose output extends `beyond_px` further on each side."""
        return self.features_radius_px + self.margin_px(beyond_px)


class Generator(nn.Module):
    """f32[n, 3, h, w] in 0..1 -> f32[n, 3, h*scale, w*scale] in about 0..1.

    h and w are multiples of `spec.grid_px`. Borders are zero-padded, as in training.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        c = spec.channels
        self.head = nn.Sequential(nn.Conv2d(3, c, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(_block(spec) for _ in range(spec.blocks)))
        radius = _FUSE_RADIUS[spec.block]
        fuse = nn.Conv2d(c, c, 2 * radius + 1, padding=radius)
        self.fuse = (
            weight_norm(fuse) if spec.norm == "weight" else nn.Sequential(fuse, nn.BatchNorm2d(c))
        )
        self.attention = WindowAttention(c, spec.window) if spec.window else nn.Identity()
        self.up = nn.Sequential(*(_widen(c) for _ in range(spec.stages)))
        self.output = SubPixelOutput(c, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self._enlarge(x, self.attention(self._features(x)))

    def core(self, x: Tensor, beyond_px: int = 0) -> Tensor:
        """Upscales a tile with its halo, without border effects.

        f32[n, 3, h + 2*halo, w + 2*halo] in 0..1 -> f32[n, 3, (h + 2*beyond)*scale, (w + 2*beyond)
        *scale] with halo = `spec.halo_for(beyond_px)`. The tile starts `spec.phase_px` before the
        border of an attention window, and its sides are multiples of the window. Each stage drops
        the part of the halo that the next ones do not need.
        """
        kept = self.spec.tail_radius_px + beyond_px
        near = trimmed(x, self.spec.halo_for(beyond_px) - kept)
        return self.enlarged(near, self.attended(x, beyond_px))

    def attended(self, x: Tensor, beyond_px: int = 0) -> Tensor:
        """The first half of `core`: features [n, c, h, w] of the tile after the attention.

        They extend `spec.tail_radius_px + beyond_px` beyond the tile on each side.
        """
        spec = self.spec
        kept = spec.tail_radius_px + beyond_px
        sides = (side - 2 * spec.features_radius_px for side in x.shape[2:])
        features = middle(self._features(x), *sides)  # tile + margin
        return trimmed(self.attention(features), spec.margin_px(beyond_px) - kept)

    def enlarged(self, x: Tensor, attended: Tensor) -> Tensor:
        """The second half of `core`, for any part; consumes `spec.tail_radius_px` on each side."""
        spec = self.spec
        sides = (spec.scale * (side - 2 * spec.tail_radius_px) for side in x.shape[2:])
        return middle(self._enlarge(x, attended), *sides)

    def _features(self, x: Tensor) -> Tensor:
        head = self.head(x.to(next(self.parameters()).dtype))  # [n, 64, h, w]
        features: Tensor = added(head, self.fuse(self.body(head)))  # [n, 64, h, w]
        return features

    def _enlarge(self, x: Tensor, attended: Tensor) -> Tensor:
        wide = self.up[0](attended)  # [n, 256, h, w]
        for double in self.up[1:]:
            wide = double(F.pixel_shuffle(wide, 2))  # [n, 256, 2h, 2w], ...
        return self._finished(x, self.output(wide))

    def _finished(self, x: Tensor, image: Tensor) -> Tensor:
        if self.spec.bicubic_skip:
            return added(bicubic(x, self.spec.scale), image)
        return (image.float().tanh() + 1) / 2


def _block(spec: GeneratorSpec) -> nn.Module:
    if spec.block == "plain":
        return PlainBlock(spec.channels, norm=spec.norm)
    return WideBlock(spec.channels, spec.expansion, norm=spec.norm)


def _widen(channels: int) -> nn.Sequential:
    """The convolution before a pixel shuffle (Shi et al. 2016, arXiv 1609.05158).

    The paper applies PReLU after the shuffle; with its single slope the order does not matter.
    """
    return nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PReLU())
