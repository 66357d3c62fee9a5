"""Nuclei: found where they were drawn, matched one to one, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb

from slidesr.benchmark.judges.downstream import nuclei_figures, nuclei_rows
from slidesr.benchmark.judges.nuclei import (
    COUNTS,
    SIZES,
    compared_nuclei,
    find_nuclei,
    matched_nuclei,
)
from slidesr.benchmark.results import Subject
from slidesr.benchmark.statistics import resamples
from slidesr.slide.image_files import read_rgb

U8 = NDArray[np.uint8]
REAL = Path(__file__).parents[3] / "shared/data/nuclei"
CENTRES = [(30, 30), (30, 90), (90, 40), (90, 95)]


def drawn(
    centres: list[tuple[int, int]], radius_px: float | list[float] = 12, side_px: int = 128
) -> U8:
    """Discs of haematoxylin on eosin."""
    rows, columns = np.mgrid[:side_px, :side_px]
    stain = np.zeros((side_px, side_px, 3))
    stain[..., 1] = 0.05
    radii_px = np.broadcast_to(radius_px, len(centres))
    for (row, column), radius in zip(centres, radii_px, strict=True):
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        stain[inside] = (0.15, 0.02, 0)
    rgb: NDArray[np.float64] = hed2rgb(stain)
    noise = np.random.default_rng(0).normal(0, 2, rgb.shape)
    return np.rint(255 * rgb + noise).clip(0, 255).astype(np.uint8)


def test_nuclei_are_found_where_they_were_drawn() -> None:
    found = find_nuclei(drawn(CENTRES), 0.25).centres
    assert sorted(map(tuple, np.rint(found).astype(int).tolist())) == sorted(CENTRES)


def test_nuclei_that_touch_are_two() -> None:
    found = find_nuclei(drawn([(64, 50), (64, 73)]), 0.25)
    assert len(found.centres) == 2


def test_areas_are_those_of_the_discs_and_of_their_labels() -> None:
    radii_px = [12.0, 17, 21, 30]
    found = find_nuclei(drawn([(25, 25), (25, 90), (90, 30), (85, 90)], radii_px), 0.25)
    assert sorted(found.areas_um2) == pytest.approx(np.pi * np.square(radii_px) / 16, rel=0.15)
    assert sorted(found.sizes) == [0, 1, 1, 2]  # 28, 57, 87 and 177 um2
    areas_px = np.bincount(found.labels.ravel())[1:]
    np.testing.assert_allclose(areas_px / 16, found.areas_um2)
    rows, columns = np.rint(found.centres).astype(int).T
    assert found.labels[rows, columns].tolist() == [1, 2, 3, 4]


def test_what_is_too_small_for_a_nucleus_is_none() -> None:
    assert count(drawn([*CENTRES, (60, 64)], radius_px=12), 0.25) == 5
    assert count(drawn(CENTRES, radius_px=3), 0.25) == 0
    assert count(drawn(CENTRES, radius_px=3), 1.0) == 4  # at 1 um they are large


def test_a_plain_image_has_none() -> None:
    plain = np.full((64, 64, 3), 240, np.uint8)
    assert count(plain, 0.25) == 0
    nothing = compared_nuclei(find_nuclei(plain, None), find_nuclei(plain, None), None)
    assert (nothing == 0).all()


def test_matches_are_one_to_one_within_3_um() -> None:
    high = np.array([[10.0, 10.0], [50.0, 50.0], [90.0, 90.0]])
    made = np.array([[12.0, 10.0], [11.0, 10.0], [50.0, 61.9], [90.0, 102.1]])
    of_made, of_high = matched_nuclei(made, high, 0.25)
    assert of_made.tolist() == [1, 2]  # of two near the first the nearer; 12 px are 3 um
    assert of_high.tolist() == [0, 1]
    assert len(matched_nuclei(made, high, 0.2)[0]) == 3
    assert len(matched_nuclei(high, made, 0.25)[0]) == 2
    assert len(matched_nuclei(np.empty((0, 2)), high, 0.25)[0]) == 0


def test_kept_lost_and_invented_are_counted_by_size() -> None:
    """A large nucleus shrinks to a medium one, a small one is lost, a medium one invented."""
    high = find_nuclei(drawn([(30, 30), (90, 95)], [26, 12]), 0.25)
    made = find_nuclei(drawn([(30, 30), (90, 30)], [20, 18]), 0.25)
    counts = compared_nuclei(made, high, 0.25)
    found = {
        (size, name): counts[i, j] for i, size in enumerate(SIZES) for j, name in enumerate(COUNTS)
    }
    change = found.pop(("large", "area_change"))
    assert {key: value for key, value in found.items() if value} == {
        ("small", "high"): 1,
        ("large", "high"): 1,
        ("large", "kept"): 1,
        ("medium", "found"): 2,
        ("medium", "invented"): 1,
    }
    assert change == pytest.approx((20 / 26) ** 2 - 1, abs=0.05)


def test_one_nucleus_on_two_is_merged_and_two_on_one_are_split() -> None:
    two = find_nuclei(drawn([(64, 50), (64, 73)]), 0.25)
    one = find_nuclei(drawn([(64, 62)], 26), 0.25)
    merged, split = COUNTS.index("merged"), COUNTS.index("split")
    assert compared_nuclei(one, two, 0.25)[:, [merged, split]].tolist() == [[0, 0], [0, 0], [1, 0]]
    assert compared_nuclei(two, one, 0.25)[:, [merged, split]].tolist() == [[0, 0], [0, 0], [0, 1]]
    assert not compared_nuclei(two, two, 0.25)[:, [merged, split]].any()


def counts_of(**numbers: float) -> NDArray[np.float64]:
    return np.array([numbers.get(name, 0.0) for name in COUNTS])


def test_counts_become_rates_of_the_totals() -> None:
    images = np.stack(
        [
            counts_of(high=8, kept=6, found=7, invented=1, merged=1, area_change=0.6),
            counts_of(high=2, found=1, invented=1, split=2),
        ]
    )
    found = nuclei_figures(images, np.array([0.2, 0.3]), resamples(["", ""]))
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {
            "in_high": 10,
            "found": 8,
            "precision": 0.75,
            "recall": 0.6,
            "kept_per_mm2": 12,
            "invented_per_mm2": 4,
            "lost_per_mm2": 8,
            "merged_per_mm2": 2,
            "split_per_mm2": 4,
            "area_change": 0.1,
        }
    )
    assert found["lost_per_mm2"].drawn is not None
    assert set(np.round(found["lost_per_mm2"].drawn, 3)) == {8, 10, 6.667}  # both, first, second
    unknown = nuclei_figures(0 * images, None, resamples(["", ""]))
    assert {
        unknown[name].value for name in ("precision", "recall", "lost_per_mm2", "area_change")
    } == {None}


def test_rows_are_of_all_sizes_and_of_each() -> None:
    subjects = [Subject(str(i), "d", f"s{i}", "", 0.5) for i in range(6)]
    counts = [
        np.stack([[counts_of(high=2, kept=i % 2), counts_of(), counts_of(high=1)]])
        for i in range(6)
    ]
    rows = nuclei_rows(4, ["ours"], subjects, [10**6] * 6, counts)
    lost = {row.part: row for row in rows if row.metric == "lost_per_mm2"}
    assert {part: row.value for part, row in lost.items()} == {
        "all": 15 / 1.5,
        "small": 9 / 1.5,
        "medium": 0,
        "large": 6 / 1.5,
    }
    assert (lost["all"].n, lost["all"].unit, lost["all"].units) == (6, "slide", 6)
    assert lost["small"].low is not None
    assert lost["small"].low < 6


def test_intervals_do_not_take_unknown_slides_for_one() -> None:
    slides = [f"s{i}" for i in range(5)] + 2 * ["unknown"]
    subjects = [Subject(str(i), "d", slide, "", 0.5) for i, slide in enumerate(slides)]
    counts = [np.stack([[counts_of(high=2), counts_of(), counts_of()]])] * 7
    rows = nuclei_rows(4, ["ours"], subjects, [10**6] * 7, counts)
    assert {(row.unit, row.units) for row in rows} == {("image", 7)}


def count(image: U8, um_per_px: float) -> int:
    return len(find_nuclei(image, um_per_px).centres)


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
        found = find_nuclei(read_rgb(path), 0.5).centres
        high, made = high + len(true), made + len(found)
        matched += len(matched_nuclei(found, true, 0.5)[0])
    assert 2 * matched / (high + made) > 0.7
