"""Stain statistics against pixel by pixel deconvolution, and on dyes that were mixed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from slidesr.imaging.stain import stain_errors

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

# Haematoxylin, eosin, DAB; Ruifrok and Johnston 2001, table 2
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def dyed(haematoxylin: F64, eosin: F64) -> U8:
    """An image of these densities [h, w]."""
    density = haematoxylin[..., None] * STAINS[0] + eosin[..., None] * STAINS[1]
    return np.asarray(np.rint(255 * 10**-density), np.uint8)


@pytest.fixture
def densities() -> tuple[F64, F64]:
    rng = np.random.default_rng(0)
    return rng.uniform(0.1, 0.6, (64, 64)), rng.uniform(0.2, 0.5, (64, 64))


def slow_statistics(image: U8, tissue: NDArray[np.bool_]) -> F64:
    found: list[list[float]] = [[], []]
    for row, column in zip(*np.nonzero(tissue), strict=True):
        absorbed = -np.log10(image[row, column].clip(1) / 255)
        amounts = np.linalg.solve(STAINS.T, absorbed)
        for stain in (0, 1):
            found[stain].append(max(amounts[stain], 0))
    return np.array([[np.mean(each), np.std(each)] for each in found])


def test_the_errors_are_those_of_every_pixel_unmixed(densities: tuple[F64, F64]) -> None:
    reference = dyed(*densities)
    reference[:20] = 240  # glass
    image = np.roll(reference, 1, axis=1) // 2 + np.arange(90, 154, dtype=np.uint8)[:, None, None]
    tissue = np.asarray((reference < 255 * 10**-0.15).any(axis=2))
    assert 0.1 < tissue.mean() < 1
    expected = slow_statistics(image, tissue) / slow_statistics(reference, tissue) - 1
    assert stain_errors(image, reference) == pytest.approx(expected, abs=1e-6)


def test_more_of_one_stain_changes_its_row_alone(densities: tuple[F64, F64]) -> None:
    haematoxylin, eosin = densities
    reference = dyed(haematoxylin, eosin)
    assert stain_errors(dyed(1.2 * haematoxylin, eosin), reference) == pytest.approx(
        np.array([[0.2, 0.2], [0, 0]]), abs=0.02
    )
    assert stain_errors(dyed(haematoxylin, 0.9 * eosin), reference) == pytest.approx(
        np.array([[0, 0], [-0.1, -0.1]]), abs=0.02
    )


def test_smoothing_lowers_the_spread_and_keeps_the_mean(densities: tuple[F64, F64]) -> None:
    haematoxylin, eosin = densities
    even = (haematoxylin + haematoxylin.mean()) / 2
    errors = stain_errors(dyed(even, eosin), dyed(haematoxylin, eosin))
    assert errors[0] == pytest.approx(np.array([0, -0.5]), abs=0.02)


def test_the_same_turned_image_has_no_errors(section: U8) -> None:
    tile = section[:96, :64]
    assert not stain_errors(tile, tile).any()
    image, turned = section[50:146, 50:114], np.rot90
    assert stain_errors(turned(image), turned(tile)) == pytest.approx(stain_errors(image, tile))


def test_a_black_pixel_does_not_count_for_many(densities: tuple[F64, F64]) -> None:
    reference = dyed(*densities)
    image = reference.copy()
    image[0, 0] = 0
    assert stain_errors(image, reference) == pytest.approx(np.zeros((2, 2)), abs=0.05)


def test_glass_has_no_stain_to_change() -> None:
    glass = np.full((64, 64, 3), 245, np.uint8)
    assert not stain_errors(glass - 30, glass).any()


def test_glass_beside_tissue_does_not_count(densities: tuple[F64, F64]) -> None:
    reference, image = dyed(*densities), dyed(densities[0] * 1.1, densities[1])
    glass = np.full((64, 64, 3), 245, np.uint8)
    beside = [np.concatenate([each, glass]) for each in (image, reference)]
    assert stain_errors(*beside) == pytest.approx(stain_errors(image, reference))
