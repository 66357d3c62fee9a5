"""Sizes and boxes against sets of pixels."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesr.geometry import Box, Mpp, Size

corners = st.integers(-9, 9)
lengths = st.integers(0, 9)
boxes = st.builds(Box, corners, corners, lengths, lengths)
factors = st.integers(1, 7)


def pixels(box: Box) -> set[tuple[int, int]]:
    columns, rows = range(box.x, box.x + box.width), range(box.y, box.y + box.height)
    return {(x, y) for x in columns for y in rows}


@given(boxes)
def test_a_box_counts_its_pixels(box: Box) -> None:
    held = pixels(box)
    assert box.area == len(held)
    assert all(box.x <= x < box.right and box.y <= y < box.bottom for x, y in held)


@given(boxes, boxes)
def test_clipping_keeps_the_common_pixels(one: Box, other: Box) -> None:
    assert pixels(one.clipped(other)) == pixels(one) & pixels(other)


@given(boxes, boxes)
def test_a_box_with_pixels_is_contained_when_they_all_are(one: Box, other: Box) -> None:
    if other.area:
        assert one.contains(other) == (pixels(other) <= pixels(one))


@given(boxes, st.integers(0, 5))
def test_growing_adds_the_margin_on_each_side(box: Box, margin: int) -> None:
    grown = box.grown(margin)
    assert (box.x - grown.x, box.y - grown.y) == (margin, margin)
    assert (grown.right - box.right, grown.bottom - box.bottom) == (margin, margin)


def test_shrinking_a_box_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="negative side"):
        Box(0, 0, 5, 5).grown(-3)


@given(boxes, corners, corners)
def test_moving_moves_every_pixel(box: Box, dx: int, dy: int) -> None:
    assert pixels(box.moved(dx, dy)) == {(x + dx, y + dy) for x, y in pixels(box)}


@given(boxes, boxes)
def test_within_counts_from_the_frame(box: Box, frame: Box) -> None:
    inside = box.within(frame)
    assert pixels(inside) == {(x - frame.x, y - frame.y) for x, y in pixels(box)}
    assert frame.within(frame) == Box(0, 0, frame.width, frame.height)


@given(boxes, st.integers(1, 4))
def test_scaling_makes_each_pixel_a_square(box: Box, scale: int) -> None:
    finer = {
        (x * scale + dx, y * scale + dy)
        for x, y in pixels(box)
        for dx in range(scale)
        for dy in range(scale)
    }
    assert pixels(box * scale) == finer


@given(boxes, factors)
def test_cells_are_those_that_the_box_meets(box: Box, cell: int) -> None:
    if box.area == 0:
        return
    met = {(x // cell, y // cell) for x, y in pixels(box)}
    by_rows = [Box(x * cell, y * cell, cell, cell) for x, y in sorted(met, key=lambda at: at[::-1])]
    assert list(box.cells(cell)) == by_rows
    snapped = box.snapped(cell)
    assert pixels(snapped) == set().union(*map(pixels, by_rows))
    assert snapped.snapped(cell) == snapped


def test_slices_take_rows_and_columns() -> None:
    frame = np.arange(6 * 7).reshape(6, 7)
    part = frame[Box(2, 1, 4, 3).slices]
    assert part.shape == (3, 4)
    assert part[0, 0] == frame[1, 2]
    assert part[-1, -1] == frame[3, 5]


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_halving_keeps_a_last_odd_pixel(width: int, height: int) -> None:
    half = Size(width, height).halved()
    assert width <= 2 * half.width <= width + 1
    assert height <= 2 * half.height <= height + 1


def test_a_size_has_a_box_an_area_and_multiples() -> None:
    size = Size(7, 5)
    assert size.box == Box(0, 0, 7, 5)
    assert size.box.size == size
    assert size.area == 35
    assert size * 4 == Size(28, 20)
    assert str(size) == "7 x 5"


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-2, 3)])
def test_a_size_without_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"{width} x {height} px is not positive"):
        Size(width, height)


@pytest.mark.parametrize(("width", "height"), [(-1, 1), (1, -1)])
def test_a_box_with_a_negative_side_is_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="negative side"):
        Box(0, 0, width, height)


@pytest.mark.parametrize("bad", [0.0, -0.25, inf, nan])
def test_a_pixel_size_is_positive_and_finite(bad: float) -> None:
    for x, y in ((bad, 0.25), (0.25, bad)):
        with pytest.raises(ValueError, match="not positive and finite"):
            Mpp(x, y)


def test_a_pixel_size_is_scaled_averaged_and_shown() -> None:
    assert Mpp(0.25, 0.5) * 4 == Mpp(1.0, 2.0)
    assert Mpp(0.2, 0.8).mean == pytest.approx(0.4)
    assert str(Mpp(0.25, 0.25)) == "0.25"
    assert str(Mpp(0.25, 0.5)) == "0.25 x 0.5"
