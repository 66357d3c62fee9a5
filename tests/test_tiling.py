"""The plan's arithmetic, for any region, scale, grid and block."""

from __future__ import annotations

from itertools import pairwise
from math import lcm

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidesr.geometry import Box, Size
from slidesr.tiling import CELL_PX, Block, TilePlan, _z_order


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    """Plans of at most a few hundred output pixels a side."""
    scale = draw(st.sampled_from((1, 2, 4, 8)))
    window_px = draw(st.sampled_from((1, 8, 16, 24, 32)))
    origins = st.integers(-200, 3000)
    sides = st.integers(1, 320 // scale)
    return TilePlan(
        Box(draw(origins), draw(origins), draw(sides), draw(sides)),
        scale,
        window_px,
        tile_px=lcm(window_px, CELL_PX) * draw(st.integers(1, 3)),
        output_tile_px=draw(st.sampled_from((16, 32, 48))),
        block_doublings=draw(st.integers(0, 3)),
    )


def times_covered(frame: Box, boxes: list[Box]) -> NDArray[np.int_]:
    """How often each pixel of a frame is covered; boxes that reach outside it are an error."""
    counts = np.zeros((frame.height, frame.width), int)
    for box in boxes:
        assert frame.contains(box)
        counts[box.within(frame).slices] += 1
    return counts


@given(plans())
def test_blocks_cover_every_output_pixel_once(plan: TilePlan) -> None:
    writes = [block.write for block in plan.blocks()]
    assert (times_covered(plan.output.box, writes) == 1).all()


@given(plans())
def test_blocks_are_numbered_and_counted(plan: TilePlan) -> None:
    indices = [block.index for block in plan.blocks()]
    assert indices == list(range(plan.block_count))


@given(plans())
def test_a_block_is_a_cell_of_the_output_cut_at_its_border(plan: TilePlan) -> None:
    side = plan.output_tile_px * 2**plan.block_doublings
    for write in (block.write for block in plan.blocks()):
        assert (write.x % side, write.y % side) == (0, 0)
        assert write.right == min(write.x + side, plan.output.width)
        assert write.bottom == min(write.y + side, plan.output.height)


@given(plans())
def test_a_block_reads_what_it_writes(plan: TilePlan) -> None:
    for block in plan.blocks():
        assert block.source.within(plan.region) * plan.scale == block.write


@given(plans())
def test_tiles_just_cover_the_source_on_the_grid(plan: TilePlan) -> None:
    grid = lcm(plan.window_px, CELL_PX)
    for block in plan.blocks():
        assert (times_covered(block.cover, list(block.tiles)) == 1).all()
        assert block.cover.contains(block.source)
        assert_on_grid(block, grid)
        for side in (block.source.x - block.cover.x, block.source.y - block.cover.y):
            assert 0 <= side < grid
        assert block.cover.right - block.source.right < grid
        assert block.cover.bottom - block.source.bottom < grid


def assert_on_grid(block: Block, grid: int) -> None:
    for tile in block.tiles:
        assert all(edge % grid == 0 for edge in (tile.x, tile.y, tile.right, tile.bottom))


@given(plans())
def test_tiles_keep_to_their_limit(plan: TilePlan) -> None:
    for block in plan.blocks():
        for tile in block.tiles:
            assert 0 < tile.width <= plan.tile_px + plan.grid_px
            assert 0 < tile.height <= plan.tile_px + plan.grid_px


@given(cells=st.integers(1, 200), limit=st.integers(1, 20), grid=st.sampled_from((8, 32, 96)))
def test_parts_are_nearly_equal_and_few(cells: int, limit: int, grid: int) -> None:
    start, length = 5 * grid, cells * grid
    parts = Box(start, 0, length, grid).cut(limit * grid, grid)
    widths = [part.width for part in parts]
    assert [part.x for part in parts] == list(np.cumsum([start, *widths[:-1]]))
    assert sum(widths) == length
    assert all(width % grid == 0 for width in widths)
    assert max(widths) <= (limit + 1) * grid
    assert max(widths) - min(widths) <= grid
    assert (len(parts) - 1) * limit * grid < length


@given(columns=st.integers(1, 40), rows=st.integers(1, 40))
def test_z_order_visits_every_cell_once(columns: int, rows: int) -> None:
    order = list(_z_order(columns, rows))
    assert sorted(order) == [(x, y) for x in range(columns) for y in range(rows)]


@given(columns=st.integers(1, 40), rows=st.integers(1, 40))
def test_z_order_is_the_order_of_interleaved_bits(columns: int, rows: int) -> None:
    codes = [morton_code(column, row) for column, row in _z_order(columns, rows)]
    assert codes == sorted(codes)


def morton_code(column: int, row: int) -> int:
    return sum(
        (column >> bit & 1) << (2 * bit) | (row >> bit & 1) << (2 * bit + 1) for bit in range(6)
    )


@given(st.integers(1, 60_000), st.integers(1, 60_000), st.sampled_from((16, 256, 512)))
def test_levels_halve_until_one_tile_holds_all(width: int, height: int, tile_px: int) -> None:
    levels = TilePlan(Box(-7, 5, width, height), 2, 8, output_tile_px=tile_px).levels
    assert levels[0] == Size(2 * width, 2 * height)
    for finer, coarser in pairwise(levels):
        assert coarser == Size(-(-finer.width // 2), -(-finer.height // 2))
        assert max(finer.width, finer.height) > tile_px
    assert max(levels[-1].width, levels[-1].height) <= tile_px


@given(plans())
@settings(max_examples=50)
def test_a_block_completes_the_levels_on_which_it_holds_whole_tiles(plan: TilePlan) -> None:
    complete = [
        level
        for level in range(len(plan.levels))
        if plan.block_px % (plan.output_tile_px << level) == 0
    ]
    assert plan.block_levels >= 1
    assert list(range(plan.block_levels)) == complete


def test_a_real_slide_has_few_blocks() -> None:
    plan = TilePlan(Box(0, 0, 20_000, 15_000), scale=4, window_px=8)
    assert plan.output == Size(80_000, 60_000)
    assert plan.block_px == 2048
    assert plan.block_count == 40 * 30
    assert len(plan.levels) == 9


@given(plans(), st.integers(0, 50), st.integers(0, 50))
def test_only_whole_source_pixels_are_converted(plan: TilePlan, x: int, y: int) -> None:
    source = Box(plan.region.x + x, plan.region.y + y, 3, 2)
    output = Box(x, y, 3, 2) * plan.scale
    assert plan.source_from_output(output) == source
    if plan.scale > 1:
        for split in (output.moved(1, 0), output.moved(0, 1), output.grown(1)):
            with pytest.raises(ValueError, match="not a whole number of source pixels"):
                plan.source_from_output(split)


def test_a_tile_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="tile 256 px is not a multiple of the grid of 96 px"):
        TilePlan(Box(0, 0, 10, 10), 2, window_px=24)


def test_an_output_tile_that_tiff_forbids_is_refused() -> None:
    with pytest.raises(ValueError, match="output tile 250 px is not a multiple of 16"):
        TilePlan(Box(0, 0, 10, 10), 2, 8, output_tile_px=250)


def test_an_output_tile_of_split_source_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="output tile 512 px"):
        TilePlan(Box(0, 0, 10, 10), scale=3, window_px=8)
