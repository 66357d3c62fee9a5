"""Intervals and tests: their coverage, and each against a direct computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slidesr.benchmark.results import ScoreRow, Subject
from slidesr.benchmark.statistics import estimate, paired_p, summary


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        told = estimate(rng.normal(30, 2, size=40))
        assert told.low is not None
        assert told.high is not None
        hits += told.low <= 30 <= told.high
    assert 0.90 <= hits / 300 <= 0.98


def test_mean_and_deviation_are_the_plain_ones() -> None:
    told = estimate([1, 2, 4])
    assert told.n == 3
    assert told.mean == pytest.approx(7 / 3)
    assert told.sd == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_one_value_has_no_interval() -> None:
    told = estimate([3])
    assert (told.mean, told.sd, told.low, told.high) == (3, None, None, None)


def test_p_is_that_of_all_signs() -> None:
    """Eight differences of distinct size: 2**8 equally likely signs."""
    differences = np.array([1, 2, 3, 4, 5, 6, 7, -8]) / 10
    ranks = np.arange(1, 9)
    sums = [
        sum(rank for rank, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product((0, 1), repeat=8)
    ]
    seen = ranks[differences > 0].sum()
    expected = 2 * min(np.mean(np.array(sums) >= seen), np.mean(np.array(sums) <= seen))
    assert paired_p(differences + 5, np.full(8, 5.0)) == pytest.approx(min(1, expected))


def test_equal_methods_and_too_few_images() -> None:
    assert paired_p([1.0] * 6, [1.0] * 6) == 1
    assert paired_p([1.0] * 5, [2.0] * 5) is None


def row(rows: list[ScoreRow], part: str, unit: str = "image") -> ScoreRow:
    (found,) = [
        each for each in rows if (each.method, each.part, each.unit) == ("ours", part, unit)
    ]
    return found


def test_parts_are_data_sets_labels_and_slides() -> None:
    subjects = [
        Subject("1", "a", "s1", "tumor"),
        Subject("2", "a", "s1", "normal"),
        Subject("3", "a", "s2", "tumor"),
        Subject("4", "b", "s3", "tumor"),
    ]
    ours = [1.0, 2.0, 4.0, 8.0]
    rows = summary(4, subjects, {"bicubic": {"ssim": [0.0] * 4}, "ours": {"ssim": ours}})
    of_a = [each for each in rows if each.data == "a"]
    assert row(of_a, "all").mean == pytest.approx(7 / 3)
    assert row(of_a, "label tumor").mean == 2.5
    assert row(of_a, "label normal").mean == 2
    assert row(of_a, "slide s1").mean == 1.5
    assert row(of_a, "all", "slide").mean == pytest.approx((1.5 + 4) / 2)
    of_b = {(each.part, each.unit) for each in rows if each.data == "b"}
    assert of_b == {("all", "image")}  # its one slide and one label are the whole
    assert {each.p for each in rows if each.method == "bicubic"} == {None}
