"""`slidesr convert`: DICOM that validators and other readers take, whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from support.blocks import METADATA, MPP, PROVENANCE, Sheet, stained
from support.profiles import icc_profile

from slidesr.cli import run
from slidesr.errors import BusyError, RefusedError
from slidesr.imaging.icc import srgb_profile
from slidesr.output.compression import Compression
from slidesr.output.metadata import Metadata
from slidesr.output.pyramid import halved
from slidesr.pipeline.convert import convert
from slidesr.slide import open_slide
from slidesr.verify import Verdict, verify

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("wsidicomizer")

# pydicom tells wsidicom, not us, of what will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*get_frame_offsets.*:DeprecationWarning")

U8 = NDArray[np.uint8]
Write = Callable[[str], Path]
REAL = Path(__file__).parents[3] / "shared" / "data" / "slides"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an upscaled slide of three levels, compressed as said."""

    def written(name: str) -> Path:
        sheet = Sheet(stained(501, 379), Compression(name, 90), "hybrid", 128)
        return sheet.write(tmp_path / f"{name}.ome.tif")

    return written


def levels_of(folder: Path) -> list[U8]:
    with openslide.OpenSlide(sorted(folder.iterdir())[0]) as slide:
        return [
            np.asarray(slide.read_region((0, 0), level, size))[..., :3]
            for level, size in enumerate(slide.level_dimensions)
        ]


@pytest.mark.parametrize("name", ["jpeg", "jpeg-rgb", "lzw", "deflate"])
def test_every_level_holds_the_same_pixels(write: Write, tmp_path: Path, name: str) -> None:
    """JPEG is copied, and what was stored without loss stays so."""
    source = write(name)
    folder = convert(source, tmp_path / "dcm")
    with openslide.OpenSlide(source) as slide:
        wanted = [
            np.asarray(slide.read_region((0, 0), level, size))[..., :3]
            for level, size in enumerate(slide.level_dimensions)
        ]
    seen = levels_of(folder)
    assert len(seen) == len(wanted) == 3
    for level, same in zip(seen, wanted, strict=True):
        assert np.array_equal(level, same)


def test_lossless_is_the_pixels_that_were_written(write: Write, tmp_path: Path) -> None:
    image = stained(501, 379)
    seen = levels_of(convert(write("lzw"), tmp_path / "dcm"))
    assert np.array_equal(seen[0], image)
    assert np.array_equal(seen[1], halved(image))


@pytest.mark.parametrize("name", ["jpeg", "jpeg-rgb", "lzw"])
def test_a_validator_finds_no_error(write: Write, tmp_path: Path, name: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy: apt-get install dicom3tools")
    for file in convert(write(name), tmp_path / "dcm").iterdir():
        told = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
        assert "VLWholeSlideMicroscopyImage" in told.stderr
        assert [line for line in told.stderr.splitlines() if line.startswith("Error")] == []


def test_size_objective_and_colour_are_kept(write: Write, tmp_path: Path) -> None:
    folder = convert(write("jpeg"), tmp_path / "dcm")
    with openslide.OpenSlide(sorted(folder.iterdir())[0]) as slide:
        properties = slide.properties
        assert float(properties["openslide.mpp-x"]) == pytest.approx(MPP.x, rel=1e-5)
        assert float(properties["openslide.mpp-y"]) == pytest.approx(MPP.y, rel=1e-5)
        assert float(properties["openslide.objective-power"]) == METADATA.magnification
        assert slide.color_profile is not None
        assert slide.color_profile.tobytes() == METADATA.icc_profile
        assert not slide.associated_images


def test_it_says_that_it_is_synthetic(write: Write, tmp_path: Path) -> None:
    for file in convert(write("jpeg"), tmp_path / "dcm").iterdir():
        told = pydicom.dcmread(file, stop_before_pixels=True)
        assert told.ImageType[0] == "DERIVED"
        shared = told.SharedFunctionalGroupsSequence[0]
        frame = shared.WholeSlideMicroscopyImageFrameTypeSequence[0]
        assert list(frame.FrameType) == list(told.ImageType)
        assert "|synthetic = true|scale = 4|" in told.DerivationDescription
        assert "not for diagnosis" in told.SeriesDescription


def test_slidesr_knows_its_own_dicom_again(write: Write, tmp_path: Path) -> None:
    folder = convert(write("jpeg"), tmp_path / "dcm")
    with open_slide(sorted(folder.iterdir())[0]) as slide:
        assert slide.provenance.items() >= {"synthetic": "true", "scale": "4"}.items()
    assert failed_checks(folder) == {"provenance"}  # the test's has no model


def test_a_scanned_slide_is_not_called_synthetic(tmp_path: Path) -> None:
    sheet = Sheet(stained(501, 379), tile_px=128, metadata=Metadata(MPP, None, None))
    source = sheet.write(tmp_path / "a.ome.tif")
    types = set()
    for file in convert(source, tmp_path / "dcm").iterdir():
        told = pydicom.dcmread(file, stop_before_pixels=True)
        types.add(told.ImageType[0])
        assert "DerivationDescription" not in told
        assert told.OpticalPathSequence[0].ICCProfile == srgb_profile()
        assert "ObjectiveLensPower" not in told.OpticalPathSequence[0]
    assert types == {"ORIGINAL", "DERIVED"}  # the first level, and those made of it


@pytest.mark.parametrize("profile", [icc_profile(b"CMYK"), icc_profile(b"GRAY"), b"nonsense"])
def test_an_unfit_profile_is_not_written(tmp_path: Path, profile: bytes) -> None:
    sheet = Sheet(stained(501, 379), tile_px=128, metadata=replace(METADATA, icc_profile=profile))
    folder = convert(sheet.write(tmp_path / "a.ome.tif"), tmp_path / "dcm")
    for file in folder.iterdir():
        told = pydicom.dcmread(file, stop_before_pixels=True)
        assert told.OpticalPathSequence[0].ICCProfile == srgb_profile()


def test_verify_sees_a_profile_of_other_pixels(write: Write, tmp_path: Path) -> None:
    folder = convert(write("jpeg"), tmp_path / "dcm")
    assert "ICC profile" not in failed_checks(folder)
    for file in folder.iterdir():
        told = pydicom.dcmread(file)
        told.OpticalPathSequence[0].ICCProfile = icc_profile(b"CMYK")
        told.save_as(file)
    assert "ICC profile" in failed_checks(folder)


def failed_checks(path: Path) -> set[str]:
    return {each.check for each in verify(path).findings if each.outcome is Verdict.FAILED}


def test_the_same_slide_gives_the_same_bytes_whenever(write: Write, tmp_path: Path) -> None:
    source = write("jpeg")
    first, second = (convert(source, tmp_path / name) for name in ("one", "two"))
    names = sorted(file.name for file in first.iterdir())
    assert names == sorted(file.name for file in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_another_slide_has_other_identifiers(tmp_path: Path) -> None:
    sheet = Sheet(stained(501, 379), Compression("jpeg"), tile_px=128)
    other = replace(sheet, metadata=replace(METADATA, provenance=PROVENANCE | {"scale": "8"}))
    one = convert(sheet.write(tmp_path / "a.ome.tif"), tmp_path / "one")
    two = convert(other.write(tmp_path / "b.ome.tif"), tmp_path / "two")
    assert not {file.name for file in one.iterdir()} & {file.name for file in two.iterdir()}


@pytest.mark.skipif(not REAL.is_dir(), reason="no real slides beside the checkout")
def test_a_scanners_slide_loses_its_label_and_its_date(tmp_path: Path) -> None:
    folder = convert(REAL / "CMU-1-Small-Region.svs", tmp_path / "dcm")
    (file,) = folder.iterdir()
    told = pydicom.dcmread(file, stop_before_pixels=True)
    assert told.ImageType[2] == "VOLUME"
    assert float(told.OpticalPathSequence[0].ObjectiveLensPower) == 20
    words = file.read_bytes()[:4000]
    assert b"2009" not in words
    assert b"Aperio" not in words


# Whole or not at all


def test_nothing_is_left_of_a_failure(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write("jpeg")
    before = set(tmp_path.iterdir())

    def fail(path: Path, changes: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slidesr.output.dicom._overwrite", fail)
    with pytest.raises(OSError, match="space"):
        convert(source, tmp_path / "dcm")
    assert set(tmp_path.iterdir()) == before


def test_what_a_killed_run_left_is_taken_over(write: Write, tmp_path: Path) -> None:
    (tmp_path / ".dcm.part").mkdir()
    (tmp_path / ".dcm.part" / "half.dcm").write_bytes(b"half")
    folder = convert(write("jpeg"), tmp_path / "dcm")
    assert len(list(folder.iterdir())) == 3
    assert not (tmp_path / ".dcm.part").exists()


def test_a_kill_between_the_two_names_loses_nothing(write: Write, tmp_path: Path) -> None:
    source = write("jpeg")
    folder = convert(source, tmp_path / "dcm")
    names = {file.name for file in folder.iterdir()}
    folder.rename(tmp_path / ".dcm.old")
    with pytest.raises(RefusedError, match="--overwrite"):
        convert(source, folder)
    assert {file.name for file in folder.iterdir()} == names


def test_two_processes_do_not_write_one_folder(write: Write, tmp_path: Path) -> None:
    from slidesr.runtime.atomic_files import locked_folder

    (tmp_path / ".dcm.part").mkdir()
    locked_folder(tmp_path / ".dcm.part")
    with pytest.raises(BusyError):
        convert(write("jpeg"), tmp_path / "dcm")


def test_an_output_is_replaced_only_when_told(write: Write, tmp_path: Path) -> None:
    source = write("jpeg")
    (tmp_path / "dcm").mkdir()
    (tmp_path / "dcm" / "old.dcm").write_bytes(b"old")
    with pytest.raises(RefusedError, match="--overwrite"):
        convert(source, tmp_path / "dcm")
    folder = convert(source, tmp_path / "dcm", overwrite=True)
    assert len(list(folder.iterdir())) == 3
    assert not (folder / "old.dcm").exists()
    assert not list(tmp_path.glob(".dcm*"))


def test_an_empty_folder_is_no_obstacle(write: Write, tmp_path: Path) -> None:
    (tmp_path / "dcm").mkdir()
    assert len(list(convert(write("jpeg"), tmp_path / "dcm").iterdir())) == 3


def test_a_folder_of_other_things_is_never_replaced(write: Write, tmp_path: Path) -> None:
    source = write("jpeg")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    with pytest.raises(RefusedError, match=r"thesis\.txt"):
        convert(source, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years"


# Refusals


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("nowhere/dcm", "no folder"),
        ("jpeg.ome.tif", "input itself"),
        ("text", "is a file"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, says: str
) -> None:
    source = write("jpeg")
    (tmp_path / "text").write_text("text")
    assert run(["convert", str(source), str(tmp_path / output)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_a_pyramid_that_wsidicomizer_does_not_take_is_refused(tmp_path: Path) -> None:
    """Of a narrow slide the last levels' widths are rounded by more than it allows."""
    source = Sheet(stained(61, 1800), Compression("jpeg")).write(tmp_path / "a.ome.tif")
    with pytest.raises(RefusedError, match="does not support it"):
        convert(source, tmp_path / "dcm")
    assert not list(tmp_path.glob("*dcm*"))


def test_no_pixel_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(stained(90, 80)).save(tmp_path / "a.png")
    with pytest.raises(RefusedError, match="no pixel size"):
        convert(tmp_path / "a.png", tmp_path / "dcm")


def test_without_the_extra_its_name_is_told(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wsidicomizer", None)
    with pytest.raises(RefusedError, match=r"slidesr\[dicom\]"):
        convert(write("jpeg"), tmp_path / "dcm")
    assert not (tmp_path / "dcm").exists()


def test_without_libturbojpeg_its_name_is_told(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise FileNotFoundError("Could not find turbojpeg library.")

    monkeypatch.setattr("opentile.jpeg.jpeg.find_turbojpeg_path", fail)
    with pytest.raises(RefusedError, match="libturbojpeg0"):
        convert(write("jpeg"), tmp_path / "dcm")


def test_the_command_tells_what_it_wrote(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", str(write("jpeg")), str(tmp_path / "dcm")]) == 0
    assert "dcm: 3 files" in capsys.readouterr().out


def test_dicom_of_another_picture_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wsidicomizer copies the tiles of a slide that is to be turned by half as they are stored."""
    source = tmp_path / "turned.tif"
    tifffile.imwrite(
        source,
        stained(512, 512),
        photometric="rgb",
        tile=(256, 256),
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        extratags=[(274, 3, 1, 3, True)],
        metadata=None,
    )
    with pytest.raises(RefusedError, match="not plain RGB"):
        convert(source, tmp_path / "dicom")
    monkeypatch.setattr("slidesr.pipeline.convert._check_copyable", lambda slide: None)
    with pytest.raises(RefusedError, match="would write another picture"):
        convert(source, tmp_path / "dicom")
    assert [path.name for path in tmp_path.iterdir()] == ["turned.tif"]
