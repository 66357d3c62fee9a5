"""What is compared on: folders, manifests, and folders of true pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slidesr.benchmark.pairs import find_pairs, match_pairs
from slidesr.benchmark.results import Subject
from slidesr.errors import RefusedError

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]

SQUARE: U8 = np.zeros((64, 64, 3), np.uint8)
MANIFEST = """file,dataset,slide,label,mpp
a/1.png,Camelyon16,tumor_001,tumor,~0.243 (0.226-0.243)
b.png,MITOS,,,unknown
"""


@pytest.fixture
def folder(tmp_path: Path, save_images: Save) -> Path:
    return save_images(tmp_path / "images", {"b.png": SQUARE, "a/1.png": SQUARE})


def test_a_folder_gives_its_images(folder: Path) -> None:
    pairs = find_pairs(folder)
    assert [pair.subject for pair in pairs] == [Subject("a/1.png", "a"), Subject("b.png", "images")]
    assert [pair.high for pair in pairs] == [folder / "a/1.png", folder / "b.png"]
    assert {pair.scale for pair in pairs} == {None}


def test_a_manifest_in_the_folder_tells_of_its_images(folder: Path) -> None:
    (folder / "manifest.csv").write_text(MANIFEST)
    first, second = (pair.subject for pair in find_pairs(folder))
    assert first == Subject("a/1.png", "a", "tumor_001", "tumor", 0.243)
    assert second == Subject("b.png", "images")


def test_a_manifest_alone_names_the_data_sets(folder: Path) -> None:
    (folder / "list.csv").write_text(MANIFEST)
    first, second = (pair.subject for pair in find_pairs(folder / "list.csv"))
    assert first.data == "Camelyon16"
    assert second.data == "MITOS"


def test_one_image_is_enough(folder: Path) -> None:
    (pair,) = find_pairs(folder / "b.png")
    assert pair.subject == Subject("b.png", "images")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\nb.png\n", "needs the column file"),
        ("file\nc.png\n", "which does not exist"),
    ],
)
def test_a_broken_manifest_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "list.csv").write_text(text)
    with pytest.raises(RefusedError, match=said):
        find_pairs(folder / "list.csv")


def test_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no images"):
        find_pairs(tmp_path)
    with pytest.raises(RefusedError, match="no such"):
        find_pairs(tmp_path / "nowhere")


def test_two_folders_are_matched_by_name(tmp_path: Path, folder: Path, save_images: Save) -> None:
    low = save_images(tmp_path / "low", {"b.webp": SQUARE[:16, :16], "a/1.tif": SQUARE[:16, :16]})
    pairs = match_pairs(low, folder)
    assert [pair.low for pair in pairs] == [low / "a/1.tif", low / "b.webp"]
    assert [pair.scale for pair in pairs] == [4, 4]


@pytest.mark.parametrize(
    ("lows", "said"),
    [
        ({"b.png": (16, 16)}, r"1\.png: has no counterpart"),
        ({"b.png": (16, 16), "a/1.png": (32, 32)}, "x2 and x4"),
        ({"b.png": (16, 16), "a/1.png": (16, 17)}, "times as large"),
        ({"b.png": (64, 64), "a/1.png": (64, 64)}, "times as large"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    tmp_path: Path, folder: Path, save_images: Save, lows: dict[str, tuple[int, int]], said: str
) -> None:
    low = save_images(
        tmp_path / "low", {name: np.zeros((*size, 3), np.uint8) for name, size in lows.items()}
    )
    with pytest.raises(RefusedError, match=said):
        match_pairs(low, folder)
