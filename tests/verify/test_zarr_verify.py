"""`slidesr verify` of others' OME-Zarr stores: it sees what slidesr reads, or says so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.slides import tissue
from support.zarr_files import Image, bioformats2raw

from slidesr.geometry import Box
from slidesr.slide import open_slide
from slidesr.verify import Finding, Verdict, verify
from slidesr.verify.readers.by_zarr import ZarrReader

PICTURE = tissue(96, 64).transpose(2, 0, 1)
RGB = [("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF")]
DYES = [("DAPI", "0000FF"), ("FITC", "00FF00"), ("Cy5", "FF00FF")]
STORES = {
    "rgb": Image([PICTURE], channels=RGB),
    "blue first": Image([PICTURE[::-1]], channels=RGB[::-1]),
    "labels alone": Image([PICTURE[::-1]], channels=[(label, None) for label, _ in RGB[::-1]]),
    "unnamed": Image([PICTURE], axes="tczyx", unit="µm"),
    "grey": Image([PICTURE[:1]], axes="yx"),
    "old": Image([PICTURE], axes="tczyx", version="0.2"),
    "words": Image([PICTURE], axes="yxc", version="0.3"),
    "zarr 3": Image([PICTURE], version="0.5", zarr_format=3, is_sharded=True),
}
UNREAD = {
    "dyes": Image([PICTURE], channels=DYES),
    "deep": Image([PICTURE.astype(np.uint16)], channels=RGB),
    "two": Image([PICTURE[:2]]),
}


def outcomes(path: Path) -> dict[str, Finding]:
    return {each.check: each for each in verify(path, full=True).findings}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("layout", ["plain", "bioformats2raw", "zip"])
def test_it_sees_what_slidesr_reads(name: str, layout: str, tmp_path: Path) -> None:
    path, image = tmp_path / "a.zarr", STORES[name]
    if layout == "bioformats2raw":
        bioformats2raw(path, [replace(image, levels=[image.levels[0][:, :9, :9]]), image])
    else:
        image.write(path)
    if layout == "zip":
        path = Path(shutil.make_archive(str(path), "zip", path))
    reader = ZarrReader(path)
    with open_slide(path) as slide:
        box = Box(10, 20, 50, 40)
        assert np.array_equal(reader.read(0, box), slide.frame().read(box))
        assert reader.facts.levels == tuple(level.size for level in slide.levels)
        assert reader.facts.mpp == slide.mpp
    reader.close()
    failed = [each for each in outcomes(path).values() if each.outcome is Verdict.FAILED]
    assert [each.check for each in failed] in ([], ["schema"])  # 0.4 wants names that sort


@pytest.mark.parametrize("name", UNREAD)
def test_what_it_cannot_show_is_absent(name: str, tmp_path: Path) -> None:
    found = outcomes(UNREAD[name].write(tmp_path / "a.zarr"))
    assert found["pixels"].outcome is Verdict.ABSENT
    assert found["tiles"].outcome is Verdict.OK


def test_a_scale_of_zero_fails(tmp_path: Path) -> None:
    found = outcomes(Image([PICTURE], scale=(0, 0)).write(tmp_path / "a.zarr"))
    assert found["scales"].outcome is Verdict.FAILED
    assert found["pixel size"].outcome is Verdict.ABSENT


@pytest.mark.parametrize("zipped", [False, True])
def test_a_label_is_not_the_slide_though_it_is_larger(zipped: bool, tmp_path: Path) -> None:
    slide = replace(STORES["rgb"], levels=[PICTURE[:, :50, :60]])
    path = bioformats2raw(tmp_path / "a.zarr", [STORES["rgb"], slide], ["Label image", "slide"])
    if zipped:
        path = Path(shutil.make_archive(str(path), "zip", path))
    reader = ZarrReader(path)
    with open_slide(path) as opened:
        assert opened.choice.image == "slide (1)"
        assert reader.facts.levels == (opened.size,)
    reader.close()
