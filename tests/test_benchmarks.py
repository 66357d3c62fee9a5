"""The arithmetic of the benchmarks: what they say of their runs, not the runs."""

from __future__ import annotations

import numpy as np
import pytest
from growth import Grown, table
from hypothesis import given
from hypothesis import strategies as st
from rounds import Ratio, Round, Run, undisturbed
from spans import interior, spans


@given(st.integers(1, 12), st.integers(2, 6), st.integers(1, 3))
def test_the_kept_parts_of_patches_cover_a_side_once_and_begin_on_the_grid(
    more: int, patch: int, overlap: int
) -> None:
    window, overlap = 32, min(overlap, patch - 1)
    side = (patch + more) * window
    made = spans(side, patch * window, overlap * window)
    assert [place for s in made for place in range(s.first, s.last)] == list(range(side))
    assert all(s.start % window == 0 and s.stop - s.start == patch * window for s in made)
    assert all(s.start <= s.first < s.last <= s.stop <= side for s in made)


def test_a_place_is_inside_where_every_patch_that_holds_it_says_so() -> None:
    far = interior(spans(224, 128, 32), 35)
    assert np.flatnonzero(far).tolist() == [*range(35, 93), *range(131, 189)]


def test_a_ratio_is_taken_inside_each_round() -> None:
    assert Ratio.of([10.0, 40.0, 9.0], [5.0, 10.0, 3.0]) == Ratio(3.0, 2.0, 4.0)
    assert str(Ratio(0.5, 0.25, 1.0)) == "0.50 (0.25-1.00)"


def test_a_round_in_which_one_row_lacked_its_cores_is_dropped() -> None:
    calm, crowded = (
        Round({"a": Run(1.0, 1.9, 0, 0), "b": Run(1.0, busy, 0, 0)}, load=1.0)
        for busy in (1.8, 1.1)
    )
    assert undisturbed([crowded, calm], 1.5) == [calm]
    with pytest.raises(SystemExit, match=r"'b': 1.1.*--least-busy"):
        undisturbed([crowded], 1.5)


def test_growth_is_told_against_the_first_size() -> None:
    first, again, large = (
        Grown(slide, mpx, seconds, 3.0, 0.98, peak, load=0.5)
        for slide, mpx, seconds, peak in (
            ("8:4", 1.0, 10.0, 1000.0),
            ("8:4", 1.0, 8.0, 900.0),
            ("16:8", 4.0, 40.0, 1100.0),
        )
    )
    rows = table([first, large, again]).splitlines()[2:]
    assert rows[0] == "| 8:4 | 1.00 | 3.0 | 8.0 | 8.00 | 1.00 | 98% | 1000 | 1.00 |"
    assert rows[1] == "| 16:8 | 4.00 | 3.0 | 40.0 | 10.00 | 1.25 | 98% | 1100 | 1.10 |"
