"""`slidesr convert` between TIFF and OME-Zarr: the same pixels on every level, the same facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.blocks import METADATA, Sheet, stained
from support.slides import camelyon_style, tissue

from slidesr.cli import run
from slidesr.output.compression import Compression
from slidesr.output.format import Format
from slidesr.pipeline.convert import convert
from slidesr.slide import Slide, open_slide

LOSSLESS = Format(Compression("lzw"))
U8 = NDArray[np.uint8]


def levels_of(slide: Slide) -> list[U8]:
    frames = [slide.frame(level=level) for level in range(len(slide.levels))]
    return [np.asarray(frame.read(frame.size.box)) for frame in frames]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A slide as slidesr makes them; its sides halve exactly, as OpenSlide wants them."""
    return Sheet(stained(1504, 1376), Compression("lzw"), "hybrid", 512).write(
        tmp_path / "made.ome.tif"
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_there_and_back_again(made: Path, version: str, tmp_path: Path) -> None:
    there, back = tmp_path / "there.ome.zarr", tmp_path / "back.ome.tif"
    convert(made, there, Format(ngff_version=version))
    convert(there, back, LOSSLESS)
    with open_slide(made) as first, open_slide(there) as second, open_slide(back) as third:
        for other in (second, third):
            assert all(map(np.array_equal, levels_of(first), levels_of(other)))
            assert (other.mpp, other.magnification) == (first.mpp, METADATA.magnification)
            assert other.icc_profile == first.icc_profile
            assert dict(other.provenance) == METADATA.provenance
    convert(made, tmp_path / "direct.ome.tif", LOSSLESS)
    assert back.read_bytes() == (tmp_path / "direct.ome.tif").read_bytes()


def test_a_slide_of_others_becomes_one_that_opens_everywhere(tmp_path: Path) -> None:
    camelyon_style(tmp_path / "a.tif", tissue(1300, 900), mpp=0.5)
    arguments = ["convert", str(tmp_path / "a.tif"), str(tmp_path / "b.ome.tif")]
    assert run([*arguments, "--compression", "deflate"]) == 0
    with open_slide(tmp_path / "a.tif") as first, open_slide(tmp_path / "b.ome.tif") as second:
        assert np.array_equal(levels_of(first)[0], levels_of(second)[0])
        assert second.mpp == first.mpp
        assert not second.provenance


def test_a_stopped_conversion_goes_on(made: Path, tmp_path: Path) -> None:
    output, told = tmp_path / "b.ome.tif", list[int]()

    def stop(done: int, of: int) -> None:
        told.append(done)
        if len(told) > 1:
            raise KeyboardInterrupt

    small = tmp_path / "small.ome.tif"
    Sheet(stained(4100, 300), Compression("lzw"), "hybrid", 512).write(small)
    with pytest.raises(KeyboardInterrupt):
        convert(small, output, LOSSLESS, stop)
    assert not output.exists()
    reports: list[tuple[int, int]] = []
    convert(small, output, LOSSLESS, lambda done, of: reports.append((done, of)))
    assert reports[0][0] >= 1
    assert reports[-1] == (3, 3)
    convert(small, tmp_path / "c.ome.tif", LOSSLESS)
    assert output.read_bytes() == (tmp_path / "c.ome.tif").read_bytes()


@pytest.mark.parametrize(
    ("output", "options", "says"),
    [
        ("b.ome.zarr", ["--quality", "80"], "--quality is for .ome.tif alone"),
        ("b.ome.tif", ["--ngff-version", "0.5"], "--ngff-version is for .ome.zarr alone"),
        ("made.ome.tif", ["--overwrite"], "is the input itself"),
        ("nowhere/b.ome.tif", [], "no folder"),
        ("folder.ome.zarr", ["--overwrite"], "is not what its name says"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    made: Path, output: str, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (made.parent / "folder.ome.zarr").mkdir()
    (made.parent / "folder.ome.zarr" / "thesis.docx").write_text("years of work")
    assert run(["convert", str(made), str(made.parent / output), *options]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("slidesr:")]
    assert len(said) == 1
    assert says in said[0]
    assert (made.parent / "folder.ome.zarr" / "thesis.docx").exists()
