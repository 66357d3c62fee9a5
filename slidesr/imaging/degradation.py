"""Simulated low resolution: the optics, sensor and compression of a scanner.

The steps and their order are those of Wang et al. 2021 (arXiv 2107.10833, eq. 1), kept mild.
The high resolution is not sharpened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from slidesr.geometry import Pixels
from slidesr.imaging.resample import through_jpeg

_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]
_BLOCK_PX = 16  # of JPEG with 4:2:0


@dataclass(frozen=True)
class Scanner:
    """The ranges of a scanner's degradations, drawn uniformly for each patch."""

    blur_px: tuple[float, float] = (
        0.3,
        1.2,
    )  # standard deviation of the optics in low-resolution pixels
    shot_noise: tuple[float, float] = (0.0, 0.02)  # variance per grey level of signal
    read_noise: tuple[float, float] = (0.0, 1.0)  # standard deviation in grey levels

    def __post_init__(self) -> None:
        for entry in fields(self):
            values = getattr(self, entry.name)
            if len(values) != 2 or not 0 <= values[0] <= values[1] < math.inf:
                raise ValueError(
                    f"{entry.name} {values!r} must be a range (least, most), both finite and >= 0"
                )


def scanned(high: Pixels, scale: int, scanner: Scanner, rng: np.random.Generator) -> Pixels:
    """Blurs, reduces and adds noise: u8[h*s, w*s, 3] -> u8[h, w, 3].

    Borders are mirrored. Blur and reduction are linear and applied as one filter, so that no pixel
    is computed only to be dropped.
    """
    blur = _blur_kernel(scale * rng.uniform(*scanner.blur_px))
    resampling = _area_kernel(scale) if rng.random() < 0.5 else _bicubic_kernel(scale)
    low = _shrunk(high, np.convolve(blur, resampling), scale)
    shot, read = rng.uniform(*scanner.shot_noise), rng.uniform(*scanner.read_noise)
    noisy = low + _noise(low, shot, read, rng)
    stored: Pixels = np.rint(noisy).clip(0, 255).astype(np.uint8)
    return stored


def compressed(low: Pixels, quality: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A JPEG round trip with random quality, chroma subsampling and block offset."""
    row, column = (int(start) for start in rng.integers(_BLOCK_PX, size=2))
    wider = np.pad(low, ((row, 0), (column, 0), (0, 0)), mode="symmetric")
    subsampling = int(rng.choice([0, 2]))  # 4:4:4 as Aperio's, 4:2:0 as most others'
    chosen = int(rng.integers(*quality, endpoint=True))
    return through_jpeg(wider, chosen, subsampling=subsampling)[row:, column:]


def _blur_kernel(sigma_px: float) -> _F64:
    """The optics' point spread, close to a Gaussian (Zhang et al. 2007, Appl. Opt. 46:1819)."""
    radius = int(3 * sigma_px + 0.5)
    offsets = np.arange(-radius, radius + 1)
    return _normalised(np.exp(-0.5 * (offsets / sigma_px) ** 2) if radius else np.ones(1))


def _area_kernel(scale: int) -> _F64:
    """The mean over the area of a sensor pixel."""
    return np.full(scale, 1 / scale)


def _bicubic_kernel(scale: int) -> _F64:
    """Pillow's antialiased bicubic: Keys 1981 (TASSP 29:1153), a = -0.5, `scale` times as wide."""
    t = np.abs(np.arange(4 * scale) + 0.5 - 2 * scale) / scale
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return _normalised(np.where(t < 1, near, far))


def _shrunk(high: Pixels, kernel: _F64, scale: int) -> _F32:
    """Filters both axes at the low-resolution pixels only: u8[h*s, w*s, 3] -> f32[h, w, 3]."""
    rows = _rows_shrunk(high.astype(np.float32), kernel, scale)
    columns = _rows_shrunk(np.ascontiguousarray(rows.swapaxes(0, 1)), kernel, scale)
    return columns.swapaxes(0, 1)


def _noise(low: _F32, shot: float, read: float, rng: np.random.Generator) -> _F32:
    """Shot and read noise: normal with variance shot * low + read**2, f32[h, w, 3].

    Foi et al. 2008, TIP 17:1737.
    """
    variance = np.float32(shot) * low.clip(0, None) + np.float32(read**2)
    drawn: _F32 = np.sqrt(variance) * rng.standard_normal(low.shape, dtype=np.float32)
    return drawn


def _normalised(weights: _F64) -> _F64:
    shares: _F64 = weights / weights.sum()
    return shares


def _rows_shrunk(image: _F32, kernel: _F64, scale: int) -> _F32:
    flat = image.reshape(len(image), -1)
    beyond = (len(kernel) - scale) // 2
    padded = np.pad(flat, ((beyond, beyond), (0, 0)), mode="symmetric")
    windows = sliding_window_view(padded, len(kernel), axis=0)[::scale]
    low: _F32 = np.einsum("rct,t->rc", windows, kernel.astype(np.float32))
    return low.reshape(-1, *image.shape[1:])
