"""A scanner's steps against slow ones, in their order; jitter against its formula."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb_from_hed

from slidesr.imaging.augmentation import Jitter, drawn_jitter
from slidesr.imaging.degradation import Scanner, compressed, scanned
from slidesr.imaging.resample import through_jpeg

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
QUIET: dict[str, Any] = {"shot_noise": (0.0, 0.0), "read_noise": (0.0, 0.0)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blurred_then_resampled(high: U8, scale: int, sigma_px: float, how: str) -> F64:
    """Step by step at full size: SciPy's Gaussian, then a mean over squares or Pillow's bicubic."""
    blurred = ndimage.gaussian_filter(
        high.astype(np.float64), sigma_px * scale, axes=(0, 1), truncate=3.0
    )
    height, width = (side // scale for side in high.shape[:2])
    if how == "area":
        means: F64 = blurred.reshape(height, scale, width, scale, 3).mean((1, 3))
        return means
    planes = (Image.fromarray(plane.astype(np.float32)) for plane in blurred.transpose(2, 0, 1))
    small = (plane.resize((width, height), Image.Resampling.BICUBIC) for plane in planes)
    return np.stack([np.asarray(plane, np.float64) for plane in small], axis=-1)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("sigma_px", [0.0, 0.3, 1.2])
def test_a_scan_is_blurred_then_resampled_by_either_way(
    sigma_px: float, scale: int, section: U8
) -> None:
    high = section[100:196, 200:328]
    scanner = Scanner(blur_px=(sigma_px, sigma_px), **QUIET)
    slow = {how: blurred_then_resampled(high, scale, sigma_px, how) for how in ("area", "bicubic")}
    counts = dict.fromkeys(slow, 0)
    inside = np.s_[2:-2, 2:-2]  # Pillow narrows its kernel at borders, here lies the mirror
    for seed in range(20):
        made = scanned(high, scale, scanner, rng(seed))
        off = {how: np.abs(made - expected)[inside].max() for how, expected in slow.items()}
        how = min(off, key=lambda name: off[name])
        assert off[how] < 0.51
        counts[how] += 1
    assert min(counts.values()) > 3


def test_area_holds_to_the_border(section: U8) -> None:
    high = section[100:132, 200:232]
    expected = blurred_then_resampled(high, 4, 1.2, "area")
    scanner = Scanner(blur_px=(1.2, 1.2), **QUIET)
    off = [np.abs(scanned(high, 4, scanner, rng(seed)) - expected).max() for seed in range(9)]
    assert min(off) < 0.51


@pytest.mark.parametrize(
    ("level", "shot", "read"), [(50, 0.0, 2.0), (50, 0.08, 0.0), (200, 0.08, 0.0), (200, 0.02, 2.0)]
)
def test_noise_comes_after_resampling_and_grows_with_the_signal(
    level: int, shot: float, read: float
) -> None:
    high = np.full((512, 512, 3), level, np.uint8)
    scanner = Scanner(shot_noise=(shot, shot), read_noise=(read, read))
    low = scanned(high, 4, scanner, rng())
    variance = shot * level + read**2 + 1 / 12  # the last of rounding
    assert low.mean() == pytest.approx(level, abs=0.1)
    assert low.var() == pytest.approx(variance, rel=0.05)
    assert abs(np.corrcoef(low[:, 1:, 0].ravel(), low[:, :-1, 0].ravel())[0, 1]) < 0.05


def test_noise_stops_at_white_and_black() -> None:
    high = np.full((64, 64, 3), 255, np.uint8)
    high[32:] = 0
    low = scanned(high, 2, Scanner(blur_px=(0, 0), read_noise=(20.0, 20.0)), rng())
    assert np.median(low[:14]) > 200
    assert np.median(low[18:]) < 50


def test_jpeg_blocks_begin_anywhere_and_cover_everything(section: U8) -> None:
    low = section[100:118, 200:220]
    ways = {}
    for row, column, subsampling in product(range(16), range(16), (0, 2)):
        wider = np.pad(low, ((row, 0), (column, 0), (0, 0)), mode="symmetric")
        stored = through_jpeg(wider, 30, subsampling=subsampling)[row:, column:]
        ways[stored.tobytes()] = (row, column, subsampling)
    drawn = rng()
    seen = [ways[compressed(low, (30, 30), drawn).tobytes()] for _ in range(100)]
    for index, choices in enumerate((range(16), range(16), (0, 2))):
        assert len({way[index] for way in seen}) > 0.8 * len(choices)


def test_jpeg_quality_is_drawn_from_its_range(section: U8) -> None:
    low = section[100:164, 200:264]
    losses = [
        np.abs(compressed(low, quality, rng(seed)).astype(int) - low).mean()
        for quality in ((10, 10), (10, 95), (95, 95))
        for seed in range(20)
    ]
    bad, mixed, good = np.reshape(losses, (3, 20))
    assert good.max() < bad.min()
    assert mixed.min() < 1.5 * good.max() < 0.7 * bad.min() < mixed.max()


@pytest.mark.parametrize(
    "options",
    [
        {"blur_px": (-0.1, 1.0)},
        {"blur_px": (1.0, 0.5)},
        {"shot_noise": (0.0,)},
        {"read_noise": (0.0, float("inf"))},
        {"read_noise": (0.0, float("nan"))},
    ],
    ids=str,
)
def test_a_wrong_scanner_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Scanner(**options)


# Jitter


def jittered_slowly(image: U8, factors: F64 | None, gain: F64, added: F64) -> F64:
    pixels = image.astype(np.float64)
    if factors is not None:
        density = -np.log((pixels + 1) / 256)
        stains = density @ hed_from_rgb
        pixels = 256 * np.exp(-(stains * factors) @ rgb_from_hed) - 1
    changed: F64 = (pixels * gain + added).clip(0, 255)
    return changed


@given(
    factors=st.none() | st.lists(st.floats(0.5, 1.5), min_size=3, max_size=3),
    channels=st.none()
    | st.lists(st.tuples(st.floats(0.7, 1.3), st.floats(-50, 50)), min_size=3, max_size=3),
)
def test_jitter_follows_its_formula(
    section: U8, factors: list[float] | None, channels: list[tuple[float, float]] | None
) -> None:
    image = np.rot90(section[200:232, 300:340])  # a view, as the sampler gives it
    scaled = None if factors is None else np.array(factors)
    change = None if scaled is None else (hed_from_rgb * scaled @ rgb_from_hed).astype(np.float32)
    gain, added = np.array(channels).T if channels else (np.ones(3), np.zeros(3))
    shifts = np.stack([gain, added]).astype(np.float32) if channels else None
    made = Jitter(change, shifts).applied(image)
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    assert np.abs(made - jittered_slowly(image, scaled, gain, added)).max() < 0.51


def test_drawn_jitter_stays_within_its_amounts_and_changes_half() -> None:
    drawn = rng()
    jitters = [drawn_jitter(0.2, 0.1, drawn) for _ in range(400)]
    stains = [
        rgb_from_hed @ jitter.densities @ hed_from_rgb  # undoes the change of basis
        for jitter in jitters
        if jitter.densities is not None
    ]
    channels = [jitter.channels for jitter in jitters if jitter.channels is not None]
    assert len(stains) == pytest.approx(200, abs=50)
    assert len(channels) == pytest.approx(200, abs=50)
    factors = np.array([np.diag(stain) for stain in stains])
    np.testing.assert_allclose(stains, [np.diag(row) for row in factors], atol=1e-5)
    assert 0.8 - 1e-5 < factors.min() < 0.85
    assert 1.15 < factors.max() < 1.2 + 1e-5
    gain, added = np.array(channels).swapaxes(0, 1)
    black = added / 255
    for amount in (gain + black - 1, black):
        assert -0.1 - 1e-6 < amount.min() < -0.08
        assert 0.08 < amount.max() < 0.1 + 1e-6


def test_a_share_of_the_patches_gets_the_colours_of_ihc() -> None:
    """What was pure eosin is pure DAB then; haematoxylin stays."""
    drawn = rng()
    jitters = [drawn_jitter(0.0, 0.0, drawn, ihc_share=0.25) for _ in range(400)]
    changed = [jitter for jitter in jitters if jitter.densities is not None]
    assert len(changed) == pytest.approx(100, abs=40)
    haematoxylin, eosin, dab = np.rint(256 * np.exp(-rgb_from_hed) - 1).astype(np.uint8)
    made = changed[0].applied(np.stack([haematoxylin, eosin])[None])[0]
    np.testing.assert_allclose(made, np.stack([haematoxylin, dab]), atol=2)


def test_no_jitter_is_a_copy(section: U8) -> None:
    jitters = [drawn_jitter(0.0, 0.0, rng(seed)) for seed in range(9)]
    for jitter in jitters:
        np.testing.assert_array_equal(jitter.applied(section[:8, :8]), section[:8, :8])


def test_stain_jitter_keeps_white_white() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    for seed in range(9):
        assert (drawn_jitter(0.9, 0.0, rng(seed)).applied(white) == 255).all()
