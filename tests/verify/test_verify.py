"""`slidesr verify`: good files pass, and every kind of damage is found by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from support.blocks import METADATA, Sheet, stained
from support.odd_files import ODD_FILES
from support.profiles import icc_profile
from support.slides import camelyon_style, tissue
from support.zarr_files import Store, multiscale, rgb_store

from slidesr.cli import run
from slidesr.errors import RefusedError
from slidesr.geometry import Box, Mpp, Size
from slidesr.output.compression import COMPRESSIONS, Compression
from slidesr.output.format import LAYOUTS
from slidesr.verify import Finding, Verdict, Verification, verify
from slidesr.verify.checks.agreement import (
    magnifications_agree,
    pixel_sizes_agree,
    pixels_agree,
    sample_boxes,
)
from slidesr.verify.readers.by_bioformats import BioFormatsReader
from slidesr.verify.readers.reader import Facts, NotInstalledError

U8 = NDArray[np.uint8]

UPSCALED = replace(
    METADATA,
    provenance={"synthetic": "true", "model": "tiny", "model_sha256": "ab" * 32, "scale": "4"},
)
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _without_java(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java starts slowly, so that only tests that name it wait for it."""
    if "bio_formats" not in request.fixturenames:
        monkeypatch.setattr("slidesr.verify.readers.by_bioformats.shutil.which", lambda name: None)


@pytest.fixture
def bio_formats() -> None:
    """Skips where Bio-Formats is not installed."""
    try:
        BioFormatsReader(Path(__file__)).close()
    except NotInstalledError as error:
        pytest.skip(f"no Bio-Formats: {error}")
    except Exception:  # noqa: S110 - it is here, and does not know this file
        pass


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a slide of four levels as slidesr does."""

    def written(name: str = "lzw", layout: str = "hybrid", **change: Any) -> Path:
        sheet = Sheet(stained(501, 379), Compression(name), layout, 64, UPSCALED)
        return replace(sheet, **change).write(tmp_path / "a.ome.tif")

    return written


def found(report: Verification, check: str, by: str = "") -> Finding:
    """The one finding of a check, by whose name begins so."""
    (one,) = [each for each in report.findings if each.check == check and each.by.startswith(by)]
    return one


def failures(report: Verification) -> set[tuple[str, str]]:
    return {
        (each.check, each.by.split()[0])
        for each in report.findings
        if each.outcome is Verdict.FAILED
    }


# Good files


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_what_slidesr_writes_passes(write: Write, name: str) -> None:
    report = verify(write(name), full=True)
    assert failures(report) == set()
    assert report.is_good
    for reader in ("tifffile", "OpenSlide"):
        for check in ("opens", "levels", "pixel size", "pixels"):
            assert found(report, check, reader).outcome is Verdict.OK
    assert found(report, "levels", "tifffile").detail == (
        "4: 501 x 379, 251 x 190, 126 x 95, 63 x 48"
    )
    assert found(report, "magnification", "ome-types").detail == "160x"
    assert found(report, "provenance").detail == "synthetic, x4 by tiny (abababababab)"
    assert found(report, "schema").outcome is Verdict.OK
    assert found(report, "tiles").detail.startswith("all ")


def test_bio_formats_sees_the_same(bio_formats: None, write: Write) -> None:
    report = verify(write("jpeg"))
    assert failures(report) == set()
    for check in ("opens", "levels", "pixel size", "magnification", "pixels"):
        assert found(report, check, "Bio-Formats").outcome is Verdict.OK


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fewer_levels_fail_only_where_all_were_promised(write: Write, layout: str) -> None:
    report = verify(write(layout=layout))
    assert report.is_good
    seen = found(report, "levels", "OpenSlide")
    if layout == "ome":
        assert (seen.outcome, seen.detail) == (Verdict.ABSENT, "1 of 4 levels")
    else:
        assert seen.outcome is Verdict.OK


def test_a_slide_of_others_passes_with_what_it_lacks_absent(tmp_path: Path) -> None:
    camelyon_style(tmp_path / "a.tif", tissue(600, 400), mpp=0.25)
    report = verify(tmp_path / "a.tif")
    assert report.is_good
    assert found(report, "provenance").outcome is Verdict.ABSENT
    assert found(report, "schema").outcome is Verdict.ABSENT
    assert found(report, "ICC profile").outcome is Verdict.ABSENT
    assert {each.outcome for each in report.findings if each.check == "magnification"} == {
        Verdict.ABSENT
    }


def test_a_file_that_openslide_opens_but_cannot_read_is_no_bug(tmp_path: Path) -> None:
    """After one failed read, OpenSlide does not even tell the levels."""
    (volume,) = (file for file in ODD_FILES if file.name == "volume.tif")
    report = verify(volume.write(tmp_path))
    assert found(report, "opens", "OpenSlide").outcome is Verdict.OK
    assert found(report, "image").outcome is Verdict.ABSENT


REAL = Path(__file__).parents[3] / "shared" / "data" / "slides"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real slides beside the checkout")
@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "camelyon_jpeg.dcm"]
)
def test_readers_agree_on_real_slides(bio_formats: None, name: str) -> None:
    assert failures(verify(REAL / name)) == set()


@pytest.mark.skipif(not REAL.is_dir(), reason="no real slides beside the checkout")
def test_wrong_colours_in_the_wild_are_found() -> None:
    """Bio-Formats 6.7 wrote YCbCr tiles under a tag that says RGB, which libvips believes."""
    pytest.importorskip("pyvips")
    assert failures(verify(REAL / "OS-1-detail.ome.tif")) == {("pixels", "libvips")}


# Damage


def tile_of(path: Path, level: int, index: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[level].keyframe
        return page.dataoffsets[index], page.databytecounts[index]


def spoil(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("name", ["jpeg", "lzw", "deflate"])
def test_a_spoilt_tile_is_named(write: Write, name: str) -> None:
    path = write(name)
    offset, count = tile_of(path, 1, 4)
    spoil(path, offset + count // 3, os.urandom(count - count // 3))
    report = verify(path, full=True)
    assert ("tiles", "imagecodecs") in failures(report)
    assert "level 1, tile 4" in found(report, "tiles").detail


def test_a_file_that_ends_too_soon_fails(write: Write) -> None:
    path = write("jpeg", "ome")  # nothing stands after the tiles
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    assert not verify(path, full=True).is_good


def test_a_sparse_tile_of_ours_fails(write: Write) -> None:
    path = write()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite((0, *tag.value[1:]))
    assert ("tiles", "imagecodecs") in failures(verify(path))


def test_a_lost_level_fails_in_the_hybrid_layout(write: Write) -> None:
    """The last directory says another height, so that it is no level of the pyramid."""
    path = write()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[3].aspage().tags["ImageLength"].overwrite(40)
    assert {check for check, _ in failures(verify(path))} >= {"levels"}


def test_a_wrong_pixel_size_in_the_tags_fails(write: Write) -> None:
    path = write()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["XResolution"].overwrite((1234, 1))
    assert {by for check, by in failures(verify(path)) if check == "pixel size"} == {"ome-types"}


def test_ome_xml_of_another_size_fails(write: Write) -> None:
    path = write()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'SizeX="501"', b'SizeX="502"'))
    assert ("schema", "ome-types") in failures(verify(path))


def test_ome_xml_outside_its_schema_fails(write: Write) -> None:
    path = write()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'Interleaved="true"', b'Interleaved="tree"'))
    assert ("schema", "ome-types") in failures(verify(path))


def test_an_upscaled_slide_that_hides_its_model_fails(write: Write) -> None:
    words = {"synthetic": "true", "scale": "4"}
    report = verify(write(metadata=replace(METADATA, provenance=words)))
    assert failures(report) == {("provenance", "slidesr")}
    assert found(report, "provenance").detail == "lacks model, model_sha256"


# Colour profiles


def test_a_profile_of_other_pixels_fails(write: Write) -> None:
    report = verify(write(metadata=replace(UPSCALED, icc_profile=icc_profile(b"CMYK"))))
    assert failures(report) == {("ICC profile", "tifffile")}
    assert found(report, "ICC profile").detail == (
        "its ICC profile is for CMYK pixels, the file holds RGB"
    )


@pytest.mark.parametrize("profile", [b"nonsense", icc_profile(b"RGB "), icc_profile(kind=b"link")])
def test_a_profile_that_cannot_be_used_fails(write: Write, profile: bytes) -> None:
    report = verify(write(metadata=replace(UPSCALED, icc_profile=profile)))
    assert failures(report) == {("ICC profile", "tifffile")}


def test_a_profile_of_grey_fits_a_grey_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tile": (64, 64), "iccprofile": icc_profile(b"GRAY")}
    tifffile.imwrite(tmp_path / "a.tif", tissue(200, 150)[..., 0], metadata=None, **options)
    assert found(verify(tmp_path / "a.tif"), "ICC profile").outcome is Verdict.OK


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_profile_of_other_pixels_in_a_store_fails(tmp_path: Path, version: str) -> None:
    metadata = replace(UPSCALED, icc_profile=icc_profile(b"CMYK"))
    sheet = Sheet(stained(501, 379), tile_px=64, metadata=metadata)
    path = Store(sheet, version).write(tmp_path / "a.ome.zarr")
    assert failures(verify(path)) == {("ICC profile", "zarr")}
    good = Store(replace(sheet, metadata=UPSCALED), version).write(tmp_path / "b.ome.zarr")
    assert found(verify(good), "ICC profile").outcome is Verdict.OK


# Agreement, by readers made up


class Shown:
    """A reader of levels in memory."""

    def __init__(self, name: str, *levels: U8, interpolated: bool = False) -> None:
        self.name, self._levels, self._interpolated = name, levels, interpolated
        self.facts = Facts(tuple(Size(level.shape[1], level.shape[0]) for level in levels))

    def read(self, level: int, box: Box) -> U8:
        return self._levels[level][box.slices]

    def interpolates(self, level: int) -> bool:
        return self._interpolated

    def close(self) -> None:
        pass


def test_one_wrong_pixel_in_the_last_corner_is_seen() -> None:
    right = stained(700, 500)
    for x, y in [(699, 499), (0, 499), (699, 0), (0, 0), (260, 250)]:
        wrong = right.copy()
        wrong[y, x, 1] ^= 64
        findings = pixels_agree([Shown("a", right), Shown("b", wrong)], tolerance=2, is_ours=True)
        assert [each.outcome for each in findings] == [Verdict.OK, Verdict.FAILED]
        assert "64 grey levels off a at level 0" in findings[1].detail


def test_the_tolerance_is_of_grey_levels() -> None:
    right = np.full((100, 100, 3), 100, np.uint8)
    readers = [Shown("a", right), Shown("b", right + np.uint8(2))]
    assert pixels_agree(readers, tolerance=2, is_ours=True)[1].outcome is Verdict.OK
    assert pixels_agree(readers, tolerance=1, is_ours=True)[1].outcome is Verdict.FAILED


def test_interpolated_pixels_lie_between_their_neighbours() -> None:
    right = stained(300, 200)
    between = ((right.astype(int) + np.roll(right, 1, axis=1)) // 2).astype(np.uint8)
    between[:, 0] = right[:, 0]
    for shown, outcome in [(between, Verdict.OK), (between[..., ::-1], Verdict.FAILED)]:
        readers = [Shown("a", right), Shown("b", shown, interpolated=True)]
        assert pixels_agree(readers, tolerance=0, is_ours=True)[1].outcome is outcome


@pytest.mark.parametrize(("width", "height"), [(1, 1), (63, 64), (65, 300), (1051, 779)])
def test_places_hold_every_corner_and_stay_inside(width: int, height: int) -> None:
    size = Size(width, height)
    boxes = sample_boxes(size)
    assert all(size.box.contains(box) and box.area for box in boxes)
    for x, y in [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]:
        assert any(box.contains(Box(x, y, 1, 1)) for box in boxes)


def test_numbers_that_differ_fail_and_unknown_ones_are_absent() -> None:
    sizes = pixel_sizes_agree({"a": None, "b": Mpp(0.25, 0.25), "c": Mpp(0.25, 0.5)})
    assert [each.outcome for each in sizes] == [Verdict.ABSENT, Verdict.OK, Verdict.FAILED]
    powers = magnifications_agree({"a": 40.0, "b": 40.01, "c": None, "d": 20.0})
    assert [each.outcome for each in powers] == [
        Verdict.OK,
        Verdict.OK,
        Verdict.ABSENT,
        Verdict.FAILED,
    ]


# OME-Zarr, made by zarr itself


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_good_store_passes(tmp_path: Path, version: str) -> None:
    report = verify(rgb_store(tmp_path / "a.ome.zarr", version), full=True)
    assert failures(report) == set()
    assert found(report, "levels").detail == "3: 512 x 384, 256 x 192, 128 x 96"
    assert found(report, "pixel size").detail == "0.25 x 0.25 um"
    assert found(report, "scales").detail == "times 1, 2, 4"
    assert found(report, "colour").outcome is Verdict.OK
    assert found(report, "tiles").detail == "all 17 chunks decode"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_store_outside_the_specification_fails(tmp_path: Path, version: str) -> None:
    pytest.importorskip("ome_zarr_models", exc_type=ImportError)
    bad = multiscale(3, version)
    bad["datasets"][1]["coordinateTransformations"] = [{"type": "bogus"}]
    path = rgb_store(tmp_path / "a.ome.zarr", version, multiscales=[bad])
    assert {check for check, _ in failures(verify(path))} == {"schema", "scales"}


def test_a_scale_that_does_not_fit_its_level_fails(tmp_path: Path) -> None:
    bad = multiscale(3, "0.4")
    bad["datasets"][2]["coordinateTransformations"][0]["scale"] = [1.0, 0.75, 0.75]
    report = verify(rgb_store(tmp_path / "a.ome.zarr", "0.4", multiscales=[bad]))
    assert failures(report) == {("scales", "zarr")}
    assert "level 2: 128 px along x" in found(report, "scales").detail


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_spoilt_chunk_is_found(tmp_path: Path, version: str) -> None:
    path = rgb_store(tmp_path / "a.ome.zarr", version)
    chunk = path / "0" / ("c/0/1/2" if version == "0.5" else "0.1.2")
    chunk.write_bytes(b"spoilt" * 9)
    report = verify(path, full=True)
    assert ("tiles", "zarr") in failures(report)
    assert "level 0, x 256, y 128" in found(report, "tiles").detail


def test_channels_that_are_no_colours_are_told_of(tmp_path: Path) -> None:
    report = verify(rgb_store(tmp_path / "a.ome.zarr", "0.4", omero={"channels": []}))
    assert found(report, "colour").outcome is Verdict.ABSENT


# The command


def test_the_command_tells_and_exits(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("jpeg")
    assert run(["verify", str(path)]) == 0
    out = capsys.readouterr().out
    assert "OpenSlide 4" in out
    assert "not installed" in out  # Java, see above
    offset, count = tile_of(path, 0, 0)
    spoil(path, offset, bytes(count))
    assert run(["verify", "--json", "--full", str(path)]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["good"] is False
    assert "level 0, tile 0" in told.err


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None])
def test_what_is_no_slide_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "a"
    make(path)
    with pytest.raises(RefusedError, match="a: "):
        verify(path)
    assert run(["verify", str(path)]) == 2


def test_what_nobody_opens_fails(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_text("not a slide")
    report = verify(tmp_path / "a.svs")
    assert failures(report) == {("opens", "any")}


def test_a_jar_by_name_goes_first(
    bio_formats: None, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    monkeypatch.setenv("SLIDESR_BIOFORMATS_JAR", "/nowhere.jar")
    absent = found(verify(path), "opens", "Bio-Formats")
    assert absent.outcome is Verdict.NOT_INSTALLED
    assert "/nowhere.jar" in absent.detail
    monkeypatch.setenv("SLIDESR_BIOFORMATS_JAR", str(path))  # a file, but no jar
    assert failures(verify(path)) == {("opens", "Bio-Formats")}
