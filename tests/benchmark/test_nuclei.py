"""Nuclei: found where they were drawn, matched one to one, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb

from slidesr.benchmark.judges.nuclei import find_nuclei, matched_nuclei, nuclei_scores
from slidesr.slide.image_files import read_rgb

U8 = NDArray[np.uint8]
REAL = Path(__file__).parents[3] / "shared/data/nuclei"
CENTRES = [(30, 30), (30, 90), (90, 40), (90, 95)]


def drawn(centres: list[tuple[int, int]], radius_px: float = 12, side_px: int = 128) -> U8:
    """Discs of haematoxylin on eosin."""
    rows, columns = np.mgrid[:side_px, :side_px]
    stain = np.zeros((side_px, side_px, 3))
    stain[..., 1] = 0.05
    for row, column in centres:
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius_px**2
        stain[inside] = (0.15, 0.02, 0)
    rgb: NDArray[np.float64] = hed2rgb(stain)
    noise = np.random.default_rng(0).normal(0, 2, rgb.shape)
    return np.rint(255 * rgb + noise).clip(0, 255).astype(np.uint8)


def test_nuclei_are_found_where_they_were_drawn() -> None:
    found = find_nuclei(drawn(CENTRES), 0.25)
    assert sorted(map(tuple, np.rint(found).astype(int).tolist())) == sorted(CENTRES)


def test_nuclei_that_touch_are_two() -> None:
    found = find_nuclei(drawn([(64, 50), (64, 73)]), 0.25)
    assert len(found) == 2


def test_what_is_too_small_for_a_nucleus_is_none() -> None:
    assert len(find_nuclei(drawn([*CENTRES, (60, 64)], radius_px=12), 0.25)) == 5
    specks = find_nuclei(drawn(CENTRES, radius_px=3), 0.25)
    assert len(specks) == 0
    assert len(find_nuclei(drawn(CENTRES, radius_px=3), 1.0)) == 4  # at 1 um they are large


def test_a_plain_image_has_none() -> None:
    assert find_nuclei(np.full((64, 64, 3), 240, np.uint8), 0.25).shape == (0, 2)


def test_matches_are_one_to_one_within_3_um() -> None:
    high = np.array([[10.0, 10.0], [50.0, 50.0], [90.0, 90.0]])
    made = np.array([[12.0, 10.0], [11.0, 10.0], [50.0, 61.9], [90.0, 102.1]])
    assert matched_nuclei(made, high, 0.25) == 2  # two near the first count once; 12 px are 3 um
    assert matched_nuclei(made, high, 0.2) == 3
    assert matched_nuclei(high, made, 0.25) == 2
    assert matched_nuclei(np.empty((0, 2)), high, 0.25) == 0


def test_counts_become_rates() -> None:
    assert nuclei_scores(high=10, detected=8, matched=6, mm2=0.5) == {
        "nuclei_in_high": 10,
        "nuclei_found": 8,
        "precision": 0.75,
        "recall": 0.6,
        "invented_per_mm2": 4,
        "lost_per_mm2": 8,
    }
    unknown = nuclei_scores(high=0, detected=0, matched=0, mm2=None)
    assert {unknown["precision"], unknown["recall"], unknown["lost_per_mm2"]} == {None}


def test_annotated_nuclei_are_found() -> None:
    """F1 of 0.73 over 13 crops of gliomas; a detector that learnt would do better."""
    images = sorted(REAL.glob("image*.webp"))
    if not images:
        pytest.skip("no annotated nuclei beside the checkout")
    high = made = matched = 0
    for path in images:
        with Image.open(path.with_name(f"{path.stem}_mask.png")) as file:
            mask = np.array(file)
        names = np.unique(mask)[1:]
        true = np.reshape(ndimage.center_of_mass(mask > 0, mask, names), (-1, 2))
        found = find_nuclei(read_rgb(path), 0.5)
        high, made = high + len(true), made + len(found)
        matched += matched_nuclei(found, true, 0.5)
    assert 2 * matched / (high + made) > 0.7
