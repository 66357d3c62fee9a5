"""The layers of WA-SRGAN in pure torch; feature maps are [n, c, h, w]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from slidesr.geometry import Pixels


class WideBlock(nn.Module):
    """Adds a wide-activation residual to its input (WDSR-B, Yu et al. 2018, arXiv 1808.08718)."""

    def __init__(self, channels: int, expansion: int, *, norm: str) -> None:
        super().__init__()
        wide, narrow = channels * expansion, int(0.8 * channels)
        convs = (
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, narrow, 1),
            nn.Conv2d(narrow, channels, 3, padding=1),
        )
        if norm == "weight":
            expand, reduce, spread = (weight_norm(conv) for conv in convs)
            self.residual = nn.Sequential(expand, nn.ReLU(), reduce, spread)
        else:
            expand, reduce, spread = convs
            self.residual = nn.Sequential(
                expand, nn.BatchNorm2d(wide), nn.PReLU(), reduce, spread, nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.residual(x)
        return added(x, residual)


class PlainBlock(nn.Module):
    """Adds SRGAN's residual to its input (Ledig et al. 2017, arXiv 1609.04802, figure 4)."""

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        if norm == "weight":
            self.residual = nn.Sequential(weight_norm(first), nn.PReLU(), weight_norm(second))
        else:
            self.residual = nn.Sequential(
                first, nn.BatchNorm2d(channels), nn.PReLU(), second, nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.residual(x)
        return added(x, residual)


class SelfAttention(nn.Module):
    """The layers of SAGAN's self-attention (Zhang et al. 2019, arXiv 1805.08318)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))


class WindowAttention(SelfAttention):
    """Self-attention within non-overlapping windows of `window` x `window` pixels.

    SAGAN's layer (Zhang et al. 2019, arXiv 1805.08318): queries and keys of c/8 channels, softmax
    without 1/sqrt(d), a residual with a learned scale `gamma` initialised to 0. The window grid
    starts at the map's top left corner, so tiles must be aligned with it. A window as large as the
    map gives the paper's global attention. Memory is linear in the map's area.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__(channels)
        self.window = window
        self.scale = 1.0  # of the scores

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            windows_from_map(part(x), self.window) for part in (self.query, self.key, self.value)
        )
        # Queries and keys are zero-padded to the values' width, which leaves products unchanged:
        # the memory-linear kernels require equal widths.
        missing = value.shape[-1] - query.shape[-1]
        query, key = (F.pad(part, (0, missing)) for part in (query, key))
        attended = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return x + self.gamma * map_from_windows(attended, x.shape, self.window)


def windows_from_map(x: Tensor, window: int) -> Tensor:
    """[n, c, h, w] -> [n * windows, 1, window * window, c], windows in row-major order."""
    n, c, h, w = x.shape
    if h % window or w % window:
        raise ValueError(f"a map of {w} x {h} px is not a whole number of {window} px windows")
    grid = x.permute(0, 2, 3, 1).reshape(n, h // window, window, w // window, window, c)
    return grid.transpose(2, 3).reshape(-1, 1, window * window, c).contiguous()


def map_from_windows(tokens: Tensor, shape: torch.Size, window: int) -> Tensor:
    """[n * windows, 1, window * window, c] -> [n, c, h, w]; the inverse of `windows_from_map`."""
    n, c, h, w = shape
    grid = tokens.reshape(n, h // window, w // window, window, window, c).transpose(2, 3)
    return grid.reshape(n, h, w, c).permute(0, 3, 1, 2)


class SubPixelOutput(nn.Module):
    """The output convolution, evaluated before the preceding pixel shuffle with the same result.

    A k x k convolution of c -> 3 channels after `PixelShuffle(2)` equals a convolution of
    4c -> 12 channels before it, followed by the shuffle. Twelve output channels at half the
    resolution use SIMD units better than three. The weights keep the paper's shape
    [3, c, k, k], k = 4m + 1. f32[n, 4c, h, w] -> f32[n, 3, 2h, 2w].
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.low_resolution_weights()
        return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2), 2)

    def low_resolution_weights(self) -> tuple[Tensor, Tensor]:
        """The equivalent low-resolution weight [12, 4c, m', m'] and bias [12], m' = k // 2 + 1."""
        weight = self.conv.weight
        out, channels, kernel, _ = weight.shape
        small = kernel // 2 + 1
        # Output phase p, input phase q, tap j of the small kernel: the large kernel's tap is
        # 2 * (j - small // 2) + q - p from its centre; one outside the kernel counts as zero.
        p, q, j = (torch.arange(size) for size in (2, 2, small))
        tap = 2 * (j - small // 2) + q[:, None] - p[:, None, None] + kernel // 2
        rows, columns = tap.reshape(2, 2, small, 1, 1, 1) + 1, tap + 1
        phases = F.pad(weight, (1, 1, 1, 1))[:, :, rows, columns]  # [3, c, py, qy, jy, px, qx, jx]
        phases = phases.permute(0, 2, 5, 1, 3, 6, 4, 7)
        bias = torch.zeros(out) if self.conv.bias is None else self.conv.bias
        small_weight = phases.reshape(4 * out, 4 * channels, small, small)
        return small_weight, bias.repeat_interleave(4)


def as_tensor(image: Pixels) -> Tensor:
    """u8[h, w, 3] -> f32[1, 3, h, w] in 0..1."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def as_pixels(image: Tensor) -> Pixels:
    """[1, 3, h, w] in 0..1, rounded and clipped -> u8[h, w, 3]."""
    quantised = (image[0].float() * 255).round().clamp(0, 255).byte()
    pixels: Pixels = quantised.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def bicubic(x: Tensor, scale: int) -> Tensor:
    """Pillow's bicubic upscaling (a = -0.5): f32[n, c, h, w] -> f32[n, c, h*scale, w*scale]."""
    planes = x.contiguous()  # twice as fast as channels_last
    return F.interpolate(planes, scale_factor=float(scale), mode="bicubic", antialias=True)


def shrunk(x: Tensor, scale: int) -> Tensor:
    """Pillow's antialiased bicubic reduction: f32[n, c, h*scale, w*scale] -> f32[n, c, h, w]."""
    return F.interpolate(x, scale_factor=1 / scale, mode="bicubic", antialias=True)


def trimmed(x: Tensor, margin: int) -> Tensor:
    """[n, c, h, w] without `margin` pixels on each side."""
    return x[:, :, margin : x.shape[2] - margin, margin : x.shape[3] - margin]


def middle(x: Tensor, height: int, width: int) -> Tensor:
    """The centre crop [n, c, height, width] of [n, c, h, w]."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def added(x: Tensor, residual: Tensor) -> Tensor:
    """x, cropped to the residual's size, plus the residual; unpadded convolutions shrink it."""
    return middle(x, residual.shape[2], residual.shape[3]) + residual
