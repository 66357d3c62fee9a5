"""Finds the tissue on the thumbnail of a brightfield slide; in doubt it is tissue.

A missed piece of tissue is an error, extra glass costs only time. So thresholds sit just above the
noise, pen is dropped only where it stands alone on glass, and the mask is closed and widened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from slidesr.geometry import Pixels
from slidesr.regions.tissue_mask import WHITE, Mask, Tissue

_Planes = NDArray[np.float32]  # [3, h, w]: red, green, blue

# The longest side worked on: 10 um a pixel on a 20 mm section, finer than any length below.
_WORK_PX = 2048
_ASSUMED_UM = 25.0  # a pixel of a 1024 px thumbnail of a common section, if the file has no size
_MARGIN_UM = 50.0  # gaps up to this are closed, tissue grows by this, smaller specks are dust
_HOLE_UM = 400.0  # holes up to this are vessels, glands and fat cells: part of the tissue
_BLOCK_UM = 500.0  # the surroundings in which pen counts as standing alone
_STROKE_UM = 100.0  # the finest pens draw 300 um; nuclei and folds of a pen's colour are narrower
_RIM_UM = 100.0  # marker lies on the cover glass, out of focus: its edge fades over this
_FLOOR_OD = 0.01  # 5.5 grey levels below 243; the palest eosin worth keeping has 8
_CAP_OD = 0.02  # noise must not hide tissue: beyond 11 grey levels everything is kept


def find_tissue(thumbnail: Pixels, *, um_per_px: float | None) -> Tissue:
    """Finds the tissue on a brightfield thumbnail u8[h, w, 3] with pixels of `um_per_px`.

    Memory: about 100 bytes a pixel, after reduction to at most 2048 x 2048.
    """
    view, factor = _reduced(thumbnail)
    um = (um_per_px or _ASSUMED_UM) * factor
    planes = np.stack([_blurred(view[..., c]) for c in range(3)])
    border = _scan_border(planes)
    glass = _find_glass(planes, border)
    od = _optical_density(planes, glass)
    absorbs = (od.max(axis=0) > glass.threshold) & ~border
    absorbs &= ~_pen(od, absorbs, um)
    sure = od.max(axis=0) > 2 * glass.threshold
    mask = _rounded_out(absorbs, sure, um) & ~border
    red, green, blue = (int(v) for v in np.rint(glass.colour))
    return Tissue(mask, (red, green, blue))


@dataclass(frozen=True)
class _Glass:
    """Empty glass: its colour, its smooth shading over the slide, and the threshold above it."""

    colour: NDArray[np.float32]  # [3] in 0..255
    shade: NDArray[np.float64]  # the 6 coefficients of `_surface`
    threshold: float  # optical densities above this are not glass


_NO_GLASS = _Glass(np.array(WHITE, np.float32), np.array([1.0, 0, 0, 0, 0, 0]), threshold=0.01)


def _find_glass(planes: _Planes, border: Mask) -> _Glass:
    """Estimates the glass from flat, light, unstained pixels; white if there are too few."""
    white = planes.min(axis=0) > 253.5  # missing tiles, padding, or overexposed glass
    plain = _plain(planes) & ~border & ~white
    if plain.mean() < 0.01:  # less is the lumen of a few vessels, or chance
        return _NO_GLASS
    at = np.flatnonzero(plain)
    at = at[:: 1 + len(at) // 20_000]  # enough for 6 coefficients and a histogram
    samples = planes.reshape(3, -1)[:, at].astype(np.float64)
    colour = _brightest_mode(samples)
    # If white is visible too, a tinted second colour is more likely pale tissue than glass.
    if white.mean() > 0.01 and np.ptp(colour) > 12:
        return _NO_GLASS
    y, x = np.unravel_index(at, plain.shape)
    surface = _surface(y / plain.shape[0], x / plain.shape[1])
    shade, glassy = _upper_fit(surface, (samples / colour[:, None]).max(axis=0))
    od = np.log10(colour[:, None] * (surface @ shade) / samples).max(axis=0)[glassy]
    threshold = min(_above_noise(od), _CAP_OD)
    return _Glass(colour.astype(np.float32), shade, threshold)


def _plain(planes: _Planes) -> Mask:
    """Flat and light pixels without stain; stains absorb green most."""
    red, green, blue = planes
    light = planes.min(axis=0) > 150  # the darkest glass in use is near 190
    unstained = green > np.minimum(red, blue) - 15  # glass with a violet tint has up to 7
    grey = planes.mean(axis=0) - np.float32(200)  # centred: squares keep their float32 digits
    variance = ndimage.uniform_filter(grey**2, 5) - ndimage.uniform_filter(grey, 5) ** 2
    return np.asarray(
        light & unstained & (variance < 3**2)
    )  # glass after blurring: noise, JPEG blocks


def _brightest_mode(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The colour [3] of the brightest grey that at least 5% of the samples [3, n] share."""
    grey = samples.mean(axis=0)
    counts = np.convolve(np.bincount(np.rint(grey).astype(int), minlength=256), np.ones(5), "same")
    brightest = np.flatnonzero(counts >= 0.05 * len(grey)).max(initial=int(np.median(grey)))
    return np.median(samples[:, np.abs(grey - brightest) <= 3], axis=1)


def _surface(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The terms [n, 6] of a quadratic in y and x of 0..1: the shading of lamps and condensers."""
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _upper_fit(
    surface: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Mask]:
    """The surface through the upper values, and a mask of these: pale tissue lies below glass.

    An expectile fit (Newey and Powell 1987), then plain least squares on what is near to it.
    """
    weight = np.ones_like(values)
    for _ in range(12):  # converges in fewer than 10 on slides
        root = np.sqrt(weight)
        shade = np.linalg.lstsq(surface * root[:, None], values * root, rcond=None)[0]
        weight = np.where(values > surface @ shade, 1.0, 0.03)
    near = np.abs(values - surface @ shade) < 0.02  # 5 grey levels
    if near.sum() < 100:
        return _NO_GLASS.shade, np.ones_like(near)
    shade = np.linalg.lstsq(surface[near], values[near], rcond=None)[0]
    return shade.astype(np.float64), near


def _above_noise(od: NDArray[np.float64]) -> float:
    """The upper limit of the density of glass, from its lower half: pale tissue lies above."""
    low, middle = np.percentile(od, [5, 25])  # of a normal law: 1.64 and 0.67 sigma below its mean
    sigma = (middle - low) / 0.97
    return float(middle + 0.67 * sigma + max(4 * sigma, _FLOOR_OD))


def _optical_density(planes: _Planes, glass: _Glass) -> _Planes:
    """log10(glass / light) for each channel; negative where brighter than glass."""
    height, width = planes.shape[1:]
    y, x = (np.arange(n) / n for n in (height, width))
    one, along_x, along_y, xx, xy, yy = glass.shade
    shade = (one + along_x * x + xx * x * x) + (along_y * y + yy * y * y)[:, None]
    shade += xy * x * y[:, None]
    # Outside the visible glass a quadratic diverges; the shading of lamps is within these.
    shade = np.log10(shade.clip(0.85, 1.05)).astype(np.float32)
    glass_log = np.log10(glass.colour)[:, None, None] + shade
    return np.asarray(glass_log - np.log10(planes.clip(1)), np.float32)


def _scan_border(planes: _Planes) -> Mask:
    """Black or dark grey strips left by the scanner along the sides of the image."""
    dark = planes.max(axis=0)
    grey = (dark < 120) & (dark - planes.min(axis=0) < 16)  # dark stains have more colour
    labels, count = ndimage.label(grey)
    sides = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    contact = np.bincount(sides, minlength=count + 1)
    strip = contact >= 0.1 * min(grey.shape)  # a nucleus cut by the side is shorter
    strip[0] = False
    return _grown(strip[labels], 3)  # blurring widens the edge by 3 px


def _pen(od: _Planes, absorbs: Mask, um: float) -> Mask:
    """Strokes of blue, green, red or black marker that stand alone on glass.

    The same colours inside a section are stains: aniline and alcian blue, AEC, silver.
    """
    ink = _opened(_ink_coloured(od) & absorbs, _px(_STROKE_UM / 2, um, least=1))
    if not ink.any() or ink.sum() > absorbs.sum() / 2:  # more than half: it is the stain
        return np.zeros_like(ink)
    stroke = _grown(ink, _px(_RIM_UM, um, least=3))
    tissue = (absorbs & ~stroke).astype(np.float32)
    around = ndimage.uniform_filter(tissue, 2 * _px(_BLOCK_UM / 2, um, least=5) + 1)
    return np.asarray(stroke & (around < 0.15))


def _ink_coloured(od: _Planes) -> Mask:
    """The colours of marker; 3 pixels in a million of 350 H&E fields at 32 px have them."""
    red, green, blue = od
    least, most = od.min(axis=0), od.max(axis=0)
    blue_ink = (red > 0.4) & (red > 1.1 * green) & (red > 2.4 * blue)
    green_ink = (red > 0.25) & (red > 2 * green) & (blue > 1.2 * green)
    red_ink = (green > 0.5) & (blue > 0.8 * green) & (red < 0.2 * green)  # blood: blue < 0.75 green
    black_ink = (least > 0.5) & (least > 0.88 * most)
    return np.asarray(blue_ink | green_ink | red_ink | black_ink)


def _rounded_out(mask: Mask, sure: Mask, um: float) -> Mask:
    """Closes gaps, drops specks, fills small holes and adds a margin."""
    # Noise exceeds 4 sigma in 1 to 5 px; blurring makes 9 px or more of the finest thread.
    mask = _without_small(mask, min(6, mask.size / 10))
    reach = _px(_MARGIN_UM / 2, um, least=1)
    closed = ~_grown(~_grown(mask, reach), reach)
    # Blurring widens a speck by 3 px. Never more than 0.1% of the view: no patch is all dust.
    speck = min(np.pi / 4 * (_MARGIN_UM / um + 3) ** 2, 0.001 * mask.size)
    # A piece nowhere clearly above the threshold is tissue only if too large for chance.
    pieces = _holding(_without_small(closed, speck), sure) | _without_small(closed, 8 * speck)
    # At most 5% of the view: an empty patch is not a hole.
    filled = ~_without_small(~pieces, min((_HOLE_UM / um) ** 2, 0.05 * mask.size))
    return _grown(filled, _px(_MARGIN_UM, um, least=2))


def _without_small(mask: Mask, area_px: float) -> Mask:
    """The connected pieces of at least `area_px`."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(labels.ravel()) >= area_px
    large[0] = False
    return np.asarray(large[labels])


def _holding(mask: Mask, seeds: Mask) -> Mask:
    """The connected pieces that contain a seed."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    held = np.bincount(labels[seeds], minlength=count + 1) > 0
    held[0] = False
    return np.asarray(held[labels])


def _opened(mask: Mask, px: int) -> Mask:
    """The parts of the mask wider than 2 `px`."""
    return _grown(~_grown(~mask, px), px)


def _grown(mask: Mask, px: int) -> Mask:
    """The mask dilated by a square of `px`; its time does not depend on `px`."""
    return np.asarray(ndimage.maximum_filter(mask, 2 * px + 1, mode="nearest"))


def _px(length_um: float, um: float, least: int) -> int:
    return max(least, round(length_um / um))


def _blurred(channel: Pixels) -> NDArray[np.float32]:
    """One channel smoothed against pixel noise, f32 in 0..255."""
    return np.asarray(ndimage.gaussian_filter(channel.astype(np.float32), sigma=1, truncate=3))


def _reduced(thumbnail: Pixels) -> tuple[Pixels, float]:
    """The thumbnail reduced to `_WORK_PX` on its longest side, and the reduction factor."""
    height, width, _ = thumbnail.shape
    factor = max(1.0, max(height, width) / _WORK_PX)
    if factor == 1:
        return thumbnail, factor
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(thumbnail).resize(size, Image.Resampling.BOX)), factor
