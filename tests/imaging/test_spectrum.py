"""Bands, grids and steps against slow twins, and on patterns whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.imaging.spectrum import BAND_PERIODS_PX, band_errors_db, grid_db, step_modulation

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
FLAT = np.full((128, 128, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def tile(section: U8) -> U8:
    return np.ascontiguousarray(section[100:292, 60:252])


def noise(seed: int, shape: tuple[int, int] = (128, 128)) -> U8:
    return np.random.default_rng(seed).integers(60, 200, (*shape, 3), dtype=np.uint8)


def blurred(image: U8, sigma: float) -> U8:
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0)))


def nearest(image: U8, scale: int) -> U8:
    return bicubic_down(image, scale).repeat(scale, 0).repeat(scale, 1)


def striped(image: U8, period: int, amplitude: int) -> U8:
    """Adds columns that are `amplitude` brighter, then darker, half a period each."""
    x = np.arange(image.shape[1])
    wave = np.where(x // (period // 2) % 2, amplitude, -amplitude)
    return np.asarray((image.astype(int) + wave[None, :, None]).clip(0, 255), np.uint8)


def checked(image: U8, side: int, amplitude: int) -> U8:
    y, x = np.indices(image.shape[:2]) // side
    wave = np.where((x + y) % 2, amplitude, -amplitude)
    return np.asarray((image.astype(int) + wave[..., None]).clip(0, 255), np.uint8)


# Slow twins


def slow_power(luma: F64) -> F64:
    """The Fourier sum itself, as two matrices of waves."""
    windows = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in luma.shape]
    window = windows[0][:, None] * windows[1][None, :]
    free = luma - (luma * window).sum() / window.sum()
    rows, columns = (
        np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) for n in luma.shape
    )
    return np.asarray(np.abs(rows @ (free * window) @ columns.T) ** 2 / (window**2).sum())


def frequency(index: int, side: int) -> float:
    """In cycles per px, -0.5..0.5."""
    return (index if index < side / 2 else index - side) / side


def slow_bands(image: U8) -> list[float]:
    power = slow_power(image @ LUMA)
    found: list[list[float]] = [[] for _ in BAND_PERIODS_PX]
    for (i, j), value in np.ndenumerate(power):
        radius2 = frequency(i, power.shape[0]) ** 2 + frequency(j, power.shape[1]) ** 2
        for band, period in zip(found, BAND_PERIODS_PX, strict=True):
            if 1 / (2 * period) ** 2 < radius2 <= 1 / period**2:
                band.append(value)
    rounding = float(LUMA @ LUMA) / 12
    return [10 * math.log10(max(sum(band) / len(band), rounding)) for band in found]


def slow_peak_db(power: F64, period: int) -> float:
    height, width = power.shape
    spacing = min(height, width) // period
    reach = min(8, (spacing - 1) // 2)
    places = [(k, m) for k in range(period) for m in range(period) if (k, m) != (0, 0)]
    ratios = []
    for k, m in places:
        peak: list[float] = []
        around: list[float] = []
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                at = (k * height // period + i) % height, (m * width // period + j) % width
                (peak if max(abs(i), abs(j)) <= 1 else around).append(power[at])
        unseen = height * width / 12 / (9 * len(places))
        ratios.append((np.mean(peak) + unseen) / (np.mean(around) + unseen))
    return 10 * math.log10(np.mean(ratios))


def slow_grid(image: U8, scale: int) -> float:
    side = max(scale, 4)
    height, width = (n - n % side for n in image.shape[:2])
    power = slow_power(image[:height, :width] @ LUMA)
    fitting = [p for p in (2, 4, 8, 16) if p <= side and min(height, width) // p >= 5]
    return max(slow_peak_db(power, period) for period in fitting)


def slow_modulation(image: U8, scale: int) -> float:
    spreads = []
    for grey in (image @ LUMA, (image @ LUMA).T):
        whole = (grey.shape[1] - 1) // scale * scale
        places: list[list[float]] = [[] for _ in range(scale)]
        for x in range(whole):
            places[x % scale] += ((grey[:, x + 1] - grey[:, x]) ** 2).tolist()
        means = [np.mean(place) for place in places]
        spreads.append(np.std(means) / np.mean(means))
    return float(np.mean(spreads))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97)])
def test_bands_are_rings_of_the_fourier_sum(tile: U8, height: int, width: int) -> None:
    image, reference = blurred(tile, 1)[:height, :width], tile[:height, :width]
    expected = np.subtract(slow_bands(image), slow_bands(reference))
    assert band_errors_db(image, reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (66, 99), (160, 96)])
def test_the_grid_is_the_highest_peak_of_the_fourier_sum(
    tile: U8, scale: int, height: int, width: int
) -> None:
    reference = tile[:height, :width]
    image = striped(reference, 4, 3)
    expected = slow_grid(image, scale) - slow_grid(reference, scale)
    assert grid_db(image, reference, scale) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_steps_are_counted_place_by_place(tile: U8, scale: int) -> None:
    image, reference = bicubic_up(bicubic_down(tile, scale), scale), tile
    expected = slow_modulation(image, scale) - slow_modulation(reference, scale)
    assert step_modulation(image, reference, scale) == pytest.approx(expected, abs=1e-9)


# Known answers


def values(image: U8, reference: U8) -> list[float]:
    return [
        *band_errors_db(image, reference),
        grid_db(image, reference, 4),
        step_modulation(image, reference, 4),
    ]


@given(st.integers(64, 130), st.integers(64, 130), st.sampled_from([2, 4, 8, 16]))
def test_an_image_has_no_error_against_itself(height: int, width: int, scale: int) -> None:
    for image in (noise(0, (height, width)), np.resize(FLAT, (height, width, 3))):
        assert not band_errors_db(image, image).any()
        assert grid_db(image, image, scale) == 0
        assert step_modulation(image, image, scale) == 0


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_images_have_the_same_values(tile: U8, turns: int) -> None:
    image = nearest(tile, 4)
    turned = [np.ascontiguousarray(np.rot90(each, turns)) for each in (image, tile)]
    expected = values(image, tile)
    assert values(*turned) == pytest.approx(expected, abs=1e-2)  # steps: another one is left over
    assert values(*turned)[:5] == pytest.approx(expected[:5], abs=1e-9)


def test_bands_do_not_depend_on_contrast(tile: U8) -> None:
    image, reference = blurred(tile, 0.6) // 2, tile // 2
    assert band_errors_db(image * 2, reference * 2) == pytest.approx(
        band_errors_db(image, reference), abs=1e-9
    )


def test_more_blur_leaves_less_detail_and_most_of_all_the_finest(tile: U8) -> None:
    errors = np.stack([band_errors_db(blurred(tile, sigma), tile) for sigma in (0.4, 0.8, 1.2)])
    assert (np.diff(errors, axis=0) < 0).all()
    assert (np.diff(errors, axis=1) > 0).all()
    assert (errors < 0).all()


@pytest.mark.parametrize("band", range(4))
def test_a_wave_is_found_in_the_band_of_its_period(band: int) -> None:
    period = 1.5 * BAND_PERIODS_PX[band]
    wave = 20 * np.sin(2 * np.pi * np.arange(128) / period)
    base = noise(1)
    image = np.rint(base + wave[None, :, None]).astype(np.uint8)
    errors = band_errors_db(image, base)
    assert errors.argmax() == band
    assert np.delete(errors, band) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
@pytest.mark.parametrize("period", [2, 4])
def test_a_pattern_of_one_grey_level_gives_11_db_on_flat_ground(scale: int, period: int) -> None:
    expected = 10 * math.log10(13)  # 1 over the variance of rounding, 1/12
    assert grid_db(striped(FLAT, period, 1), FLAT, scale) == pytest.approx(expected, abs=0.3)
    assert grid_db(checked(FLAT, period // 2, 1), FLAT, scale) == pytest.approx(expected, abs=0.3)


def test_texture_hides_a_pattern_but_not_a_strong_one(tile: U8) -> None:
    grids = [grid_db(striped(tile, 4, amplitude), tile, 4) for amplitude in (1, 2, 4)]
    on_flat = [grid_db(striped(FLAT, 4, amplitude), FLAT, 4) for amplitude in (1, 2, 4)]
    assert grids == sorted(grids)
    assert grids[0] > 1
    assert grids[1] > 4
    assert (np.array(grids) < on_flat).all()


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_even_texture_and_smooth_images_have_no_grid(tile: U8, scale: int) -> None:
    assert grid_db(noise(2), noise(3), scale) == pytest.approx(0, abs=1)
    smooth = bicubic_up(bicubic_down(tile, scale), scale)
    assert grid_db(smooth, tile, scale) == pytest.approx(0, abs=1)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_nearest_has_all_steps_at_one_place(scale: int) -> None:
    image, even = noise(4), FLAT
    found = step_modulation(nearest(image, scale), even, scale)
    assert found == pytest.approx(math.sqrt(scale - 1))


@pytest.mark.parametrize(
    "measure",
    [band_errors_db, lambda a, b: grid_db(a, b, 4), lambda a, b: step_modulation(a, b, 4)],
)
def test_what_cannot_be_compared_is_refused(measure: Callable[[U8, U8], object]) -> None:
    with pytest.raises(ValueError, match="differ"):
        measure(FLAT, FLAT[:-1])
    with pytest.raises(ValueError, match="64 px per side"):
        measure(FLAT[:63], FLAT[:63])
