"""Converts decoded samples to 8-bit RGB, as their directory says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidesr.geometry import Pixels
from slidesr.imaging.window import Window
from slidesr.slide.sources.source import WHITE, over_background
from slidesr.slide.sources.tiff.directory import Alpha, Colour, Directory


def to_rgb(directory: Directory, samples: NDArray[Any], window: Window | None) -> Pixels:
    """Samples [h, w, s] of 1 to 16 bits -> u8[h, w, 3], over white where there is alpha.

    `window` is for samples of 16 bits, alpha included.
    """
    colours = directory.colour.samples
    eight = _to_8_bit(directory, samples, window)
    rgb = _opaque(directory, eight[..., :colours])
    if directory.alpha is Alpha.NONE:
        return rgb
    alpha = eight[..., directory.alpha_at]
    if directory.alpha is Alpha.ASSOCIATED:
        over = rgb.astype(np.uint16) + (255 - alpha.astype(np.uint16))[..., None]
        return over.clip(0, 255).astype(np.uint8)
    return over_background(Image.fromarray(np.dstack([rgb, alpha])), WHITE)


def _to_8_bit(directory: Directory, samples: NDArray[Any], window: Window | None) -> Pixels:
    if window is not None:
        return window.to_8_bit(samples)
    eight = samples.astype(np.uint8, copy=False)
    if directory.colour is Colour.PALETTE or directory.bits == 8:
        return eight
    return eight * np.uint8(255 // (2**directory.bits - 1))


def _opaque(directory: Directory, samples: Pixels) -> Pixels:
    """Samples without alpha -> u8[h, w, 3]."""
    match directory.colour:
        case Colour.RGB:
            return np.ascontiguousarray(samples)
        case Colour.GREY:
            return np.repeat(samples, 3, axis=2)
        case Colour.INVERTED:
            return np.repeat(255 - samples, 3, axis=2)
        case Colour.PALETTE:
            return _palette(directory)[samples[..., 0]]
        case Colour.YCBCR | Colour.CMYK as colour:
            # Pillow deprecated the mode for `fromarray`, not for raw bytes.
            size = samples.shape[1], samples.shape[0]
            mode = {Colour.YCBCR: "YCbCr", Colour.CMYK: "CMYK"}[colour]
            image = Image.frombytes(mode, size, np.ascontiguousarray(samples).tobytes())
            return np.array(image.convert("RGB"))


def _palette(directory: Directory) -> Pixels:
    """u8[256, 3]; the tag has 16 bits, and some writers fill only the lower 8 of them."""
    colours = np.asarray(directory.page.colormap, np.uint16)
    eight = colours if colours.max() < 256 else colours >> 8
    table = np.zeros((256, 3), np.uint8)
    table[: eight.shape[1]] = eight.T
    return table
