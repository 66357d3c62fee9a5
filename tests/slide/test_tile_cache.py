"""Decoded tiles are kept: a tile is decoded once, however many boxes and threads need it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from support.slides import tissue

from slidesr.geometry import Box, Size
from slidesr.slide.sources.by_tifffile import TiffSource
from slidesr.slide.sources.tiff import tiles
from slidesr.slide.sources.tiff.tiles import StoredLevel, TileCache

IMAGE = tissue(700, 500)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each tile was decoded, by its index."""
    count: Counter[int] = Counter()
    whole: Callable[[StoredLevel, int], NDArray[Any] | None] = StoredLevel.samples

    def counted(level: StoredLevel, index: int) -> NDArray[Any] | None:
        count[index] += 1
        return whole(level, index)

    monkeypatch.setattr(StoredLevel, "samples", counted)
    return count


def written(folder: Path, tile: int) -> Path:
    path = folder / "a.ome.tif"
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", tile=(tile, tile), compression="deflate", bigtiff=True
    )
    return path


def test_one_large_tile_is_decoded_once_for_all_blocks(
    tmp_path: Path, decoded: Counter[int]
) -> None:
    with closing(TiffSource(written(tmp_path, 704))) as source, ThreadPoolExecutor(8) as pool:
        boxes = [box.clipped(Size(700, 500).box) for box in Size(700, 500).box.cells(64)]
        for box, pixels in zip(
            boxes, pool.map(lambda box: source.read(0, box), boxes), strict=True
        ):
            np.testing.assert_array_equal(pixels, IMAGE[box.slices])
    assert decoded == {0: 1}


def test_the_cache_is_bounded_by_bytes(
    tmp_path: Path, decoded: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two of the 88 tiles: those used last stay, the others are decoded anew."""
    monkeypatch.setattr(tiles, "_CACHE_BYTES", 2 * 64 * 64 * 3)
    with closing(TiffSource(written(tmp_path, 64))) as source:
        for x in (0, 64, 0, 64, 128, 0):
            np.testing.assert_array_equal(source.read(0, Box(x, 0, 64, 64)), IMAGE[:64, x : x + 64])
    assert decoded == {0: 2, 1: 1, 2: 1}


def test_a_tile_larger_than_the_cache_is_kept_too() -> None:
    cache, count = TileCache(Size(9000, 9000)), Counter[int]()

    def decode(index: int) -> NDArray[np.uint8]:
        count[index] += 1
        return np.zeros((9000, 9000, 3), np.uint8)

    for _ in range(3):
        cache.get(0, 0, decode)
    assert count == {0: 1}


def test_a_tile_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for it must not wait for ever."""
    cache, tries = TileCache(Size(64, 64)), Counter[int]()

    def decode(index: int) -> NDArray[np.uint8]:
        tries[index] += 1
        raise ValueError("broken")

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(cache.get, 0, 7, decode) for _ in range(8)]
        for result in results:
            with pytest.raises(ValueError, match="broken"):
                result.result(timeout=10)
    assert tries[7] == 8
