"""Bicubic against its kernel written out, and back-projection against what it promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from slidesr.imaging.metrics import psnr_db
from slidesr.imaging.resample import (
    back_projected,
    bicubic_down,
    bicubic_up,
    through_jpeg,
    through_jpeg2000,
)

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
SCALES = (2, 4, 8, 16)


@pytest.fixture(scope="module")
def stained() -> U8:
    section: Callable[[], U8] = data.immunohistochemistry
    return section()[:192, :256]


def cubic(t: float) -> float:
    """Keys 1981 with a = -0.5."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def bicubic_matrix(old: int, new: int) -> F64:
    """What each new pixel takes from each old one; the kernel widens when it shrinks."""
    step = old / new
    widening = max(1.0, step)
    rows = [
        [cubic((column + 0.5 - (row + 0.5) * step) / widening) for column in range(old)]
        for row in range(new)
    ]
    weights: F64 = np.array(rows)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def resized_slowly(pixels: U8, height: int, width: int) -> F64:
    down, across = bicubic_matrix(pixels.shape[0], height), bicubic_matrix(pixels.shape[1], width)
    exact: F64 = np.einsum("rh,hwc,qw->rqc", down, pixels, across, optimize=True)
    return exact.clip(0, 255)


@pytest.mark.parametrize("scale", SCALES)
def test_bicubic_follows_its_kernel(stained: U8, scale: int) -> None:
    low = bicubic_down(stained, scale)
    assert low.shape == (192 // scale, 256 // scale, 3)
    assert np.abs(low - resized_slowly(stained, *low.shape[:2])).max() <= 1.5
    high = bicubic_up(low, scale)
    assert high.shape == stained.shape
    assert np.abs(high - resized_slowly(low, *high.shape[:2])).max() <= 1.5


def test_bicubic_gives_pixels_that_may_be_written(stained: U8) -> None:
    for pixels in (bicubic_up(stained, 2), bicubic_down(stained, 2), back_projected(stained, 2)):
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable


@pytest.mark.parametrize("scale", SCALES)
def test_a_plain_image_stays_plain(scale: int) -> None:
    low = np.full((6, 5, 3), (0, 128, 255), np.uint8)
    high = np.full((6 * scale, 5 * scale, 3), (0, 128, 255), np.uint8)
    assert np.array_equal(bicubic_up(low, scale), high)
    assert np.array_equal(back_projected(low, scale), high)
    assert np.array_equal(bicubic_down(high, scale), low)


def test_bicubic_down_refuses_a_remainder() -> None:
    with pytest.raises(ValueError, match=r"10 x 8 px do not divide by 4: crop"):
        bicubic_down(np.zeros((8, 10, 3), np.uint8), 4)


def test_no_iteration_is_bicubic(stained: U8) -> None:
    difference = back_projected(stained, 2, iterations=0) - bicubic_up(stained, 2).astype(int)
    assert np.abs(difference).max() <= 1  # Pillow rounds 8-bit images after each axis


@pytest.mark.parametrize("scale", SCALES)
def test_back_projection_comes_closer(stained: U8, scale: int) -> None:
    low = bicubic_down(stained, scale)
    plain, mended = bicubic_up(low, scale), back_projected(low, scale)
    assert mended.shape == stained.shape
    assert psnr_db(mended, stained) > psnr_db(plain, stained) + 0.1
    assert shrunk_error(mended, low) < 0.1 < shrunk_error(plain, low)


def shrunk_error(high: U8, low: U8) -> float:
    shrunk = bicubic_down(high, high.shape[0] // low.shape[0])
    return float(np.abs(shrunk - low.astype(int)).mean())


@pytest.mark.parametrize(
    ("stored", "good", "bad"), [(through_jpeg, 95, 20), (through_jpeg2000, 4, 24)]
)
def test_compression_changes_a_little_and_keeps_the_size(
    stored: Callable[[U8, int], U8], good: int, bad: int
) -> None:
    image = np.asarray(data.immunohistochemistry()[:40, :56])  # type: ignore[no-untyped-call]
    better, worse = (stored(image, strength) for strength in (good, bad))
    off_better, off_worse = (np.abs(seen.astype(int) - image).mean() for seen in (better, worse))
    assert better.shape == image.shape
    assert 0 < off_better < off_worse < 20
    assert np.abs(worse.astype(int).mean((0, 1)) - image.mean((0, 1))).max() < 3
