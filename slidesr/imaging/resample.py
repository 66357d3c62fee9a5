"""Bicubic and bilinear resampling by integer factors, JPEG, and back-projection.

Pillow's kernel: a = -0.5, antialiased for reduction. Images are u8[h, w, 3], RGB in 0..255.
"""

from __future__ import annotations

import io
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidesr.geometry import Pixels, Size

_F32 = NDArray[np.float32]
_Pixels = TypeVar("_Pixels", Pixels, _F32)


def bicubic_up(low: Pixels, scale: int) -> Pixels:
    """Upscales an image: u8[h, w, 3] -> u8[h*s, w*s, 3]."""
    return _resized(low, _size(low) * scale)


def bilinear_up(low: Pixels, scale: int) -> Pixels:
    """Upscales an image: u8[h, w, 3] -> u8[h*s, w*s, 3]."""
    size = _size(low) * scale
    return np.array(
        Image.fromarray(low).resize((size.width, size.height), Image.Resampling.BILINEAR)
    )


def bicubic_down(high: Pixels, scale: int) -> Pixels:
    """Reduces an image: u8[h*s, w*s, 3] -> u8[h, w, 3]; ValueError if sides do not divide."""
    size = _size(high)
    if size.width % scale or size.height % scale:
        raise ValueError(f"{size} px do not divide by {scale}: crop the image first")
    return _resized(high, Size(size.width // scale, size.height // scale))


def through_jpeg(image: Pixels, quality: int, *, subsampling: int = 2) -> Pixels:
    """A JPEG round trip, as slides are stored.

    `subsampling` is Pillow's: 0 is 4:4:4, 2 is 4:2:0, as most slides have it.
    """
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "jpeg", quality=quality, subsampling=subsampling)
    return np.array(Image.open(stored))


def through_jpeg2000(image: Pixels, ratio: float) -> Pixels:
    """A lossy JPEG 2000 round trip, as Aperio and DICOM slides are stored.

    `ratio` is that of the bytes before and after; a slide of Aperio's quality 70 had 17.
    """
    stored = io.BytesIO()
    Image.fromarray(image).save(
        stored,
        "jpeg2000",
        no_jp2=True,
        quality_mode="rates",
        quality_layers=[ratio],
        irreversible=True,
        mct=1,
    )
    return np.array(Image.open(stored))


def back_projected(low: Pixels, scale: int, *, iterations: int = 10) -> Pixels:
    """Upscales an image so that its reduction reproduces it: u8[h, w, 3] -> u8[h*s, w*s, 3].

    The strongest baseline without learning: starting from bicubic, each iteration adds the upscaled
    error of the reduction. Irani and Peleg 1991, https://doi.org/10.1016/1049-9652(91)90045-L.
    """
    channels = np.moveaxis(low.astype(np.float32), -1, 0)
    high = np.stack([_back_projected(one, scale, iterations) for one in channels], axis=-1)
    return np.rint(high).clip(0, 255).astype(np.uint8)


def _back_projected(low: _F32, scale: int, iterations: int) -> _F32:
    """One channel, neither rounded nor clipped: f32[h, w] -> f32[h*s, w*s]."""
    small, large = _size(low), _size(low) * scale
    high = _resized(low, large)
    for _ in range(iterations):
        high += _resized(low - _resized(high, small), large)
    return high


def _size(pixels: _Pixels) -> Size:
    height, width = pixels.shape[:2]
    return Size(width, height)


def _resized(pixels: _Pixels, size: Size) -> _Pixels:
    image = Image.fromarray(pixels)
    return np.array(image.resize((size.width, size.height), Image.Resampling.BICUBIC))
