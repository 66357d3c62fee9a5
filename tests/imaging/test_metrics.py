"""Each measure against a slow twin that follows its paper, on stained tissue and on textures."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import convolve2d
from skimage import data
from skimage.metrics import structural_similarity

from slidesr.imaging import metrics
from slidesr.imaging.resample import bicubic_down, bicubic_up

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
Pair = tuple[U8, U8]
Metric = Callable[[U8, U8], float]

TILES = Path(__file__).parents[3] / "shared/data/valid"
SIDE_PX = 176
METRICS: list[Metric] = [
    metrics.mse,
    metrics.psnr_db,
    metrics.psnr_y_db,
    metrics.ssim,
    metrics.ms_ssim,
    metrics.qilv,
    metrics.mean_absolute,
    metrics.ms_ssim_author,
    metrics.qilv_author,
]
PERFECT = (0.0, math.inf, math.inf, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0)
SMALLEST_PX = (11, 11, 11, 11, 161, 12, 1, 161, 12)
C1, C2 = 6.5025, 58.5225

stained_section: Callable[[], U8] = data.immunohistochemistry
scikit_image_ssim: Callable[..., float] = structural_similarity


def references() -> list[U8]:
    """Real tiles where they are at hand, else crops of a stained section and noise."""
    tiles = sorted(TILES.rglob("*.webp"))[::5]
    if tiles:
        return [np.asarray(Image.open(tile).convert("RGB"))[:SIDE_PX, :SIDE_PX] for tile in tiles]
    section = stained_section()
    crops = [section[y : y + SIDE_PX, x : x + SIDE_PX] for y in (0, 330) for x in (0, 170, 330)]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, SIDE_PX // 4, SIDE_PX // 4, 3), np.uint8)
    return [*crops, *(bicubic_up(one, 4) for one in noise)]


def noisy(pixels: U8) -> U8:
    noise = np.random.default_rng(1).normal(0, 12, pixels.shape)
    return np.rint(pixels + noise).clip(0, 255).astype(np.uint8)


def inverted(pixels: U8) -> U8:
    return 255 - pixels


def blurred(scale: int) -> Callable[[U8], U8]:
    return lambda pixels: bicubic_up(bicubic_down(pixels, scale), scale)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Twenty images, each beside its reference; ways to spoil them take turns."""
    ways = cycle([blurred(2), blurred(4), noisy, blurred(8), inverted])
    chosen = islice(cycle(references()), 20)
    return [(spoil(pixels), pixels) for pixels, spoil in zip(chosen, ways, strict=False)]


@pytest.fixture
def pair(pairs: list[Pair]) -> Pair:
    return pairs[1]


def windowed(grey: F64) -> F64:
    """Every 11 x 11 window that fits, weighted by a Gaussian of sigma 1.5."""
    y, x = np.mgrid[-5:6, -5:6]
    gaussian = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    means: F64 = convolve2d(grey, gaussian / gaussian.sum(), mode="valid")
    return means


def slow_ssim(a: F64, b: F64) -> tuple[float, float]:
    """Eq. 12 of Wang 2004 with alpha = beta = gamma = 1, on grey: SSIM, and its c * s."""
    mean_a, mean_b = windowed(a), windowed(b)
    sigma_a = np.sqrt((windowed(a * a) - mean_a**2).clip(min=0))
    sigma_b = np.sqrt((windowed(b * b) - mean_b**2).clip(min=0))
    sigma_ab = windowed(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    contrast = (2 * sigma_a * sigma_b + C2) / (sigma_a**2 + sigma_b**2 + C2)
    structure = (sigma_ab + C2 / 2) / (sigma_a * sigma_b + C2 / 2)
    return float((luminance * contrast * structure).mean()), float((contrast * structure).mean())


def slow_ms_ssim(a: F64, b: F64) -> float:
    result = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        result *= max(0.0, slow_ssim(a, b)[1]) ** weight
        a, b = slowly_halved(a), slowly_halved(b)
    return float(result * max(0.0, slow_ssim(a, b)[0]) ** 0.1333)


def slowly_halved(grey: F64) -> F64:
    """Wang's own way: a 2 x 2 box filter over the mirrored image, then every other pixel."""
    means: F64 = convolve2d(grey, np.full((2, 2), 0.25), boundary="symm")
    return means[1::2, 1::2]


def slow_qilv(image: U8, reference: U8) -> float:
    """The three factors of Aja-Fernandez 2006, each sum a loop."""
    v, w = slow_variances(image), slow_variances(reference)
    n = len(v)
    m1, m2 = sum(v) / n, sum(w) / n
    s1 = math.sqrt(sum((a - m1) ** 2 for a in v) / (n - 1))
    s2 = math.sqrt(sum((b - m2) ** 2 for b in w) / (n - 1))
    s12 = sum((a - m1) * (b - m2) for a, b in zip(v, w, strict=True)) / (n - 1)
    level = (2 * m1 * m2 + C1) / (m1**2 + m2**2 + C1)
    spread = (2 * s1 * s2 + C2) / (s1**2 + s2**2 + C2)
    return level * spread * (s12 + C2 / 2) / (s1 * s2 + C2 / 2)


def slow_variances(pixels: U8) -> list[float]:
    red, green, blue = np.moveaxis(pixels.astype(float), -1, 0)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    values: list[float] = (windowed(grey**2) - windowed(grey) ** 2).ravel().tolist()
    return values


def by_channel(measure: Callable[[F64, F64], float], image: U8, reference: U8) -> float:
    channels = [(image[..., c].astype(float), reference[..., c].astype(float)) for c in range(3)]
    return float(np.mean([measure(a, b) for a, b in channels]))


def test_mse_and_psnr_are_sums_over_all_values(pairs: list[Pair]) -> None:
    for image, reference in pairs:
        squares = [(int(a) - int(b)) ** 2 for a, b in zip(image.flat, reference.flat, strict=True)]
        error = sum(squares) / len(squares)
        assert metrics.mse(image, reference) == pytest.approx(error, abs=1e-9)
        psnr_db = 20 * math.log10(255 / math.sqrt(error))
        assert metrics.psnr_db(image, reference) == pytest.approx(psnr_db, abs=1e-9)


def test_ssim_is_its_papers(pairs: list[Pair]) -> None:
    for image, reference in pairs:
        expected = by_channel(lambda a, b: slow_ssim(a, b)[0], image, reference)
        assert metrics.ssim(image, reference) == pytest.approx(expected, abs=1e-9)


def test_ssim_is_scikit_images(pairs: list[Pair]) -> None:
    for image, reference in pairs:
        expected = scikit_image_ssim(
            image,
            reference,
            channel_axis=-1,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert metrics.ssim(image, reference) == pytest.approx(expected, abs=1e-9)


def test_ms_ssim_is_its_papers(pairs: list[Pair]) -> None:
    for image, reference in pairs:
        expected = by_channel(slow_ms_ssim, image, reference)
        assert metrics.ms_ssim(image, reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(161, 161), (163, 176), (172, 165)])
def test_ms_ssim_keeps_the_last_line_of_odd_sides(pair: Pair, height: int, width: int) -> None:
    image, reference = (pixels[:height, :width] for pixels in pair)
    expected = by_channel(slow_ms_ssim, image, reference)
    assert metrics.ms_ssim(image, reference) == pytest.approx(expected, abs=1e-9)


def test_qilv_is_its_papers(pairs: list[Pair]) -> None:
    for image, reference in pairs:
        expected = slow_qilv(image, reference)
        assert metrics.qilv(image, reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("metric", "perfect"), list(zip(METRICS, PERFECT, strict=True)))
def test_a_perfect_image(pair: Pair, metric: Metric, perfect: float) -> None:
    _, reference = pair
    assert metric(reference, reference) == pytest.approx(perfect, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_neither_image_comes_first(pair: Pair, metric: Metric) -> None:
    image, reference = pair
    assert metric(image, reference) == pytest.approx(metric(reference, image), abs=1e-12)


@pytest.mark.parametrize(
    "metric", [metric for metric in METRICS if metric not in (metrics.mse, metrics.mean_absolute)]
)
def test_less_is_worth_less(pair: Pair, metric: Metric) -> None:
    _, reference = pair
    values = [metric(blurred(scale)(reference), reference) for scale in (2, 4, 8)]
    assert values[0] > values[1] > values[2] > 0


@pytest.mark.parametrize("metric", METRICS)
def test_plain_images_have_a_value(metric: Metric) -> None:
    white, black = (np.full((SIDE_PX, SIDE_PX, 3), grey, np.uint8) for grey in (255, 0))
    assert math.isfinite(metric(white, black))


def rgb(*shape: int) -> U8:
    return np.zeros(shape, np.uint8)


@pytest.mark.parametrize(
    ("image", "reference", "message"),
    [
        (rgb(20, 20, 3), rgb(20, 21, 3), "differ: crop one"),
        (rgb(20, 20), rgb(20, 20), "give one RGB image"),
        (rgb(20, 20, 4), rgb(20, 20, 4), "give one RGB image"),
        (rgb(2, 20, 20, 3), rgb(2, 20, 20, 3), "give one RGB image"),
        (rgb(20, 20, 3), rgb(20, 20, 3).astype(np.float32), "not float32: round them to 0..255"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_images_that_cannot_be_compared(
    metric: Metric, image: U8, reference: U8, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(image, reference)


@pytest.mark.parametrize(("metric", "side_px"), list(zip(METRICS, SMALLEST_PX, strict=True)))
def test_the_smallest_image(metric: Metric, side_px: int) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (side_px, side_px, 3), np.uint8)
    assert math.isfinite(metric(grey, inverted(grey)))
    needed = f"{side_px} x {side_px - 1} px are too few: give images of at least {side_px} px"
    with pytest.raises(ValueError, match=needed):
        metric(grey[1:], grey[1:])


def test_psnr_of_luma_is_that_of_its_formula(pairs: list[Pair]) -> None:
    for image, reference in pairs:
        errors = [
            (
                65.481 * (int(a[0]) - int(b[0]))
                + 128.553 * (int(a[1]) - int(b[1]))
                + 24.966 * (int(a[2]) - int(b[2]))
            )
            / 255
            for a, b in zip(image.reshape(-1, 3), reference.reshape(-1, 3), strict=True)
        ]
        error = sum(e * e for e in errors) / len(errors)
        expected = 10 * math.log10(255**2 / error)
        assert metrics.psnr_y_db(image, reference) == pytest.approx(expected, abs=1e-9)


def test_mean_absolute_is_a_plain_mean(pair: Pair) -> None:
    image, reference = pair
    expected = sum(abs(int(a) - int(b)) for a, b in zip(image.flat, reference.flat, strict=True))
    assert metrics.mean_absolute(image, reference) == pytest.approx(expected / image.size)


def test_the_authors_psnr_averages_over_the_running_means() -> None:
    errors = [100.0, 50.0, 30.0]
    expected = np.mean([10 * math.log10(255**2 / e) for e in (100, 75, 60)])
    assert metrics.running_psnr_db_author(errors) == pytest.approx(expected)


def test_the_authors_ms_ssim_has_the_last_scale_four_times(pairs: list[Pair]) -> None:
    def slow(a: F64, b: F64) -> float:
        whole = slow_ms_ssim(a, b)
        for _ in range(4):
            a, b = slowly_halved(a), slowly_halved(b)
        return float(whole * max(0.0, slow_ssim(a, b)[0]) ** (3 * 0.1333))

    for image, reference in pairs[:6]:
        expected = by_channel(slow, image, reference)
        assert metrics.ms_ssim_author(image, reference) == pytest.approx(expected, abs=1e-9)


def test_the_authors_qilv_is_a_loop_over_padded_windows(pairs: list[Pair]) -> None:
    y, x = np.mgrid[-5:6, -5:6]
    gaussian = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    gaussian /= gaussian.sum()

    def variances(pixels: U8) -> F64:
        planes = np.moveaxis(pixels.astype(float), -1, 0)
        means = [convolve2d(plane, gaussian, mode="same") for plane in planes]
        squares = [convolve2d(plane**2, gaussian, mode="same") for plane in planes]
        return np.ravel([s - m**2 for s, m in zip(squares, means, strict=True)])

    for image, reference in pairs[:6]:
        v, w = variances(image), variances(reference)
        s1, s2 = v.std(ddof=1), w.std(ddof=1)
        s12 = ((v - v.mean()) * (w - w.mean())).sum() / (len(v) - 1)
        expected = (
            (2 * v.mean() * w.mean() / (v.mean() ** 2 + w.mean() ** 2))
            * (2 * s1 * s2 / (s1**2 + s2**2))
            * (s12 / (s1 * s2))
        )
        assert metrics.qilv_author(image, reference) == pytest.approx(expected, abs=1e-9)
