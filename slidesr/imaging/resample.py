"""Bicubic resampling by whole factors: how low resolution is made, and the classical ways back.

Pillow's kernel: a = -0.5, antialiased where it shrinks. Images are u8[h, w, 3], RGB in 0..255.
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
    """The image enlarged: u8[h, w, 3] -> u8[h*s, w*s, 3]."""
    return _resized(low, _size(low) * scale)


def bicubic_down(high: Pixels, scale: int) -> Pixels:
    """The image shrunk: u8[h*s, w*s, 3] -> u8[h, w, 3]; raises ValueError on other sides."""
    size = _size(high)
    if size.width % scale or size.height % scale:
        raise ValueError(f"{size} px do not divide by {scale}: crop the image first")
    return _resized(high, Size(size.width // scale, size.height // scale))


def through_jpeg(image: Pixels, quality: int, *, subsampling: int = 2) -> Pixels:
    """The image as JPEG gives it back, which is how slides are stored.

    `subsampling` is Pillow's: 0 is 4:4:4, 2 is 4:2:0, as most slides have it.
    """
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "jpeg", quality=quality, subsampling=subsampling)
    return np.array(Image.open(stored))


def back_projected(low: Pixels, scale: int, *, iterations: int = 10) -> Pixels:
    """The image enlarged so that shrinking gives it back: u8[h, w, 3] -> u8[h*s, w*s, 3].

    The best baseline that learns nothing: bicubic, to which each iteration adds the enlarged
    error of its shrunk self. Irani and Peleg 1991, https://doi.org/10.1016/1049-9652(91)90045-L.
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
