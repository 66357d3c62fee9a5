"""Blocks and upper levels against the whole image, halved level by level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from slidesr.geometry import Box
from slidesr.output.compression import Compression
from slidesr.output.pyramid import (
    EncodedBlock,
    EncodedTile,
    UpperPyramid,
    UpscaledBlock,
    encode_block,
    halved,
    padded,
)
from slidesr.tiling import Block, TilePlan

U8 = NDArray[np.uint8]
Place = tuple[int, int, int]

GLASS = (243, 240, 238)
SIDE = 16


def halved_slowly(pixels: U8) -> U8:
    """Round half up of the mean of those of the 2 x 2 pixels that exist."""
    height, width, channels = pixels.shape
    half = np.zeros(((height + 1) // 2, (width + 1) // 2, channels), np.uint8)
    for row, column, channel in np.ndindex(half.shape):
        four = pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel]
        half[row, column, channel] = int(four.mean() + 0.5)
    return half


small_images = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)), fill=st.nothing()
)


@given(small_images)
@settings(deadline=None, max_examples=50)
def test_halving_is_the_rounded_mean(pixels: U8) -> None:
    assert np.array_equal(halved(pixels), halved_slowly(pixels))


def test_halving_rounds_every_sum_of_four() -> None:
    sums = np.arange(4 * 255 + 1)
    quarters = [(sums + extra) // 4 for extra in range(4)]  # which add up to the sums again
    pixels = np.array(quarters).reshape(2, 2, -1).transpose(0, 2, 1).reshape(2, -1)
    grey = np.repeat(pixels[:, :, None], 3, axis=2).astype(np.uint8)
    assert np.array_equal(halved(grey)[0, :, 0], (sums + 2) // 4)


@dataclass(frozen=True)
class Case:
    """An image as it is painted, with the level-0 tiles that are glass."""

    plan: TilePlan
    image: U8
    glass: NDArray[np.bool_]

    @property
    def painted(self) -> Iterator[UpscaledBlock]:
        for block in self.plan.blocks():
            rows, columns = (
                slice(cut.start // SIDE, -(-cut.stop // SIDE)) for cut in block.write.slices
            )
            glass = self.glass[rows, columns]
            pixels = None if glass.all() else self.image[block.write.slices]
            yield UpscaledBlock(block, pixels, glass)

    def is_glass(self, place: Place) -> bool:
        """Whether all level-0 tiles below a tile are glass."""
        level, row, column = place
        below = Box(column, row, 1, 1) * 2**level
        return bool(self.glass[below.slices].all())


@st.composite
def cases(draw: st.DrawFn, longest: int = 150) -> Case:
    width, height = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    doublings = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from((0.0, 0.3, 0.8, 0.97, 1.0)))
    glass = rng.random((-(-height // SIDE), -(-width // SIDE))) < share
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for row, column in np.argwhere(glass):
        image[(Box(int(column), int(row), 1, 1) * SIDE).slices] = GLASS
    return Case(plan_of(width, height, doublings), image, glass)


def plan_of(width: int, height: int, doublings: int) -> TilePlan:
    """Source pixels are output pixels, so that any size is possible."""
    region = Box(11, 7, width, height)
    return TilePlan(region, 1, 8, 32, output_tile_px=SIDE, block_doublings=doublings)


def all_tiles(case: Case, compression: Compression) -> list[EncodedTile[bytes]]:
    upper = UpperPyramid(case.plan, compression.encode, GLASS)
    tiles: list[EncodedTile[bytes]] = []
    for painted in case.painted:
        encoded = encode_block(painted, case.plan, compression.encode)
        tiles += [*encoded.tiles, *upper.add(encoded)]
    return tiles


def by_place(tiles: list[EncodedTile[bytes]]) -> dict[Place, bytes | None]:
    found = {(tile.level, tile.row, tile.column): tile.data for tile in tiles}
    assert len(found) == len(tiles), "a tile came twice"
    return found


def expected_tiles(case: Case) -> dict[Place, U8 | None]:
    """The whole image halved, cut, and its border tiles filled by their last row and column."""
    expected: dict[Place, U8 | None] = {}
    whole = case.image
    for level, size in enumerate(case.plan.levels):
        assert whole.shape == (size.height, size.width, 3)
        for row in range(-(-size.height // SIDE)):
            for column in range(-(-size.width // SIDE)):
                place = level, row, column
                expected[place] = None if case.is_glass(place) else cut(whole, row, column)
        whole = halved(whole)
    return expected


def cut(whole: U8, row: int, column: int) -> U8:
    rows = np.minimum(np.arange(row * SIDE, (row + 1) * SIDE), whole.shape[0] - 1)
    columns = np.minimum(np.arange(column * SIDE, (column + 1) * SIDE), whole.shape[1] - 1)
    return whole[np.ix_(rows, columns)]


def decoded(data: bytes, name: str) -> U8:
    if name == "none":
        return np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3)
    differences = np.frombuffer(imagecodecs.lzw_decode(data), np.uint8).reshape(SIDE, SIDE, 3)
    return np.cumsum(differences, axis=1, dtype=np.uint8)  # TIFF's horizontal predictor


@pytest.mark.parametrize("name", ["none", "lzw"])
@given(case=cases())
@settings(deadline=None, max_examples=40)
def test_tiles_are_those_of_the_whole_image(name: str, case: Case) -> None:
    found, expected = by_place(all_tiles(case, Compression(name))), expected_tiles(case)
    assert found.keys() == expected.keys()
    for place, pixels in expected.items():
        data = found[place]
        if pixels is None:
            assert data is None, place
        else:
            assert data is not None, place
            assert np.array_equal(decoded(data, name), pixels), place


@given(case=cases(longest=90), doublings=st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_the_size_of_blocks_changes_no_byte(case: Case, doublings: int) -> None:
    size = case.plan.output
    other = Case(plan_of(size.width, size.height, doublings), case.image, case.glass)
    compression = Compression("jpeg")
    assert by_place(all_tiles(case, compression)) == by_place(all_tiles(other, compression))


def glass_block(block: Block) -> EncodedBlock:
    return EncodedBlock(block, (), None)


@pytest.mark.parametrize(
    ("width", "height", "doublings"),
    [(1027, 771, 0), (16, 8_000, 0), (8_000, 17, 0), (3_000, 4_100, 2)],
)
def test_few_upper_tiles_are_open_however_large_the_slide(
    width: int, height: int, doublings: int
) -> None:
    plan = plan_of(width, height, doublings)
    upper = UpperPyramid(plan, Compression("none").encode, GLASS)
    most_open, tiles = 0, list[EncodedTile[bytes]]()
    for block in plan.blocks():
        tiles += upper.add(glass_block(block))
        most_open = max(most_open, len(upper._open))
    upper_levels = plan.levels[plan.block_levels :]
    assert most_open <= len(upper_levels)
    assert not upper._open
    assert all(tile.data is None for tile in tiles)
    assert len(by_place(tiles)) == sum(
        -(-size.width // SIDE) * -(-size.height // SIDE) for size in upper_levels
    )


def test_upper_tiles_come_as_soon_as_their_parts_are_there() -> None:
    plan = plan_of(64, 64, 0)
    upper = UpperPyramid(plan, Compression("none").encode, GLASS)
    completed = [
        [(tile.level, tile.row, tile.column) for tile in upper.add(glass_block(block))]
        for block in plan.blocks()
    ]
    every_fourth = [[(1, 0, 0)], [(1, 0, 1)], [(1, 1, 0)], [(1, 1, 1), (2, 0, 0)]]
    assert completed[3::4] == every_fourth
    assert sum(map(len, completed)) == 5


def test_a_border_tile_repeats_its_last_row_and_column() -> None:
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    whole = padded(pixels, SIDE)
    assert whole.shape == (SIDE, SIDE, 3)
    assert np.array_equal(whole[:3, :5], pixels)
    assert (whole[2:, 4:] == pixels[2, 4]).all()
    assert (whole[2:, 1] == pixels[2, 1]).all()


@pytest.mark.parametrize(
    ("name", "quality", "message"),
    [
        ("jpeg2000", 90, "compression 'jpeg2000' is not one of jpeg, "),
        ("jpeg", 0, "quality 0 is not within"),
        ("jpeg", 101, "quality 101 is not within"),
    ],
)
def test_a_compression_that_is_not_offered_is_refused(
    name: str, quality: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Compression(name, quality)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-rgb"])
def test_a_higher_quality_is_closer_to_the_image_and_larger(name: str) -> None:
    rng = np.random.default_rng(0)
    tile = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 8, 0), 8, 1)
    low, high = (Compression(name, quality).encode(tile) for quality in (30, 95))
    assert len(low) < len(high)
    assert mean_error(high, tile) < mean_error(low, tile)


def mean_error(jpeg: bytes, tile: U8) -> float:
    return float(np.abs(imagecodecs.jpeg8_decode(jpeg) - tile.astype(int)).mean())
