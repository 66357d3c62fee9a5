"""Every reader shows every level of every compression, and the table in the docs is what is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.matrix import JPEG_ROUNDING, LEVELS, NAMES, documented_rows, measured_row, write_slides
from support.readers import (
    PROGRAMS,
    Program,
    by_bio_formats,
    by_openslide,
    by_tifffile,
    by_wsidicomizer,
    by_zarrita,
)
from support.zarr_files import rgb_store

from slidesr.verify.readers.by_zarr import ZarrReader

U8 = NDArray[np.uint8]

# Its own JPEG decoder repeats chroma where others smooth it; the colours are the same.
CHROMA_REPEATED = {("geotiff.js", "jpeg")}

# pydicom and pyvips tell other libraries, not us, of what will go.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_slides(tmp_path_factory.mktemp("slides"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_docs_say_what_was_measured(program: Program, slides: dict[str, Path]) -> None:
    row = measured_row(program, slides)
    assert documented_rows()[program.name] == row, "python tests/matrix.py writes what is so"


def test_the_docs_promise_all_levels_and_the_same_pixels() -> None:
    rows = documented_rows()
    assert list(rows) == [program.name for program in PROGRAMS]
    assert len(rows) >= 9
    for name, row in rows.items():
        _, _, levels, *cells = row.strip("| ").split(" | ")
        assert levels == "all"
        for compression, cell in zip(NAMES, cells, strict=True):
            if (name, compression) not in CHROMA_REPEATED:
                assert cell in ("exact", f"to {JPEG_ROUNDING}")


def test_repeated_chroma_is_the_same_on_the_whole(slides: dict[str, Path]) -> None:
    """What geotiff.js shows of 4:2:0 differs at borders of colour alone."""
    program = next(each for each in PROGRAMS if each.name == "geotiff.js")
    seen = program.levels(slides["jpeg"])
    for level, wanted in zip(seen, by_tifffile(slides["jpeg"]), strict=True):
        difference = level.astype(int) - wanted
        assert np.abs(difference).mean() < 1
        assert np.abs(difference.mean(axis=(0, 1))).max() < 0.2


@pytest.mark.parametrize("read", [by_openslide, by_bio_formats, by_wsidicomizer])
@pytest.mark.parametrize("name", ["jpeg", "lzw"])
def test_dicom_shows_the_same(
    slides: dict[str, Path], tmp_path: Path, name: str, read: object
) -> None:
    pytest.importorskip("wsidicomizer")
    from slidesr.pipeline.convert import convert

    folder = convert(slides[name], tmp_path / "dcm")
    seen = levels_of_dicom(folder, read)
    assert len(seen) == LEVELS
    tolerance = JPEG_ROUNDING if name == "jpeg" else 0
    for level, wanted in zip(seen, by_tifffile(slides[name]), strict=True):
        assert np.abs(level.astype(int) - wanted).max() <= tolerance


def levels_of_dicom(folder: Path, read: object) -> list[U8]:
    if read is by_openslide:
        return by_openslide(folder)
    if read is by_bio_formats:
        return by_bio_formats(sorted(folder.iterdir())[0])
    from wsidicom import WsiDicom

    with WsiDicom.open(folder) as slide:
        return [
            np.asarray(slide.read_region((0, 0), level.level, level.size.to_tuple()))
            for level in slide.pyramids[0]
        ]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_zarrita_shows_a_store_in_a_browser(tmp_path: Path, version: str) -> None:
    path = rgb_store(tmp_path / "a.ome.zarr", version)
    seen = by_zarrita(path)
    reader = ZarrReader(path)
    assert len(seen) == len(reader.facts.levels) == 3
    for level, size in enumerate(reader.facts.levels):
        assert np.array_equal(seen[level], reader.read(level, size.box))
