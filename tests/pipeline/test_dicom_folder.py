"""A DICOM folder is a slide: it opens like any of its files, in every command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from malformed.slide_files import dicom as malformed_dicom
from support.blocks import METADATA, Sheet, stained
from support.models import tiny_generator
from support.slides import camelyon_style, tissue

from slidesr.cli import run
from slidesr.errors import RefusedError
from slidesr.model.weights import save_model
from slidesr.output.compression import Compression
from slidesr.patches.sources import find_material
from slidesr.pipeline.convert import convert
from slidesr.pipeline.find_slides import find_items
from slidesr.runtime.dicom_folder import dicom_files, is_dicom, one_file_a_slide, slide_file
from slidesr.slide import open_slide
from slidesr.slide.folders import is_one_slide
from slidesr.verify import Verdict, verify

pytest.importorskip("pydicom")
pytest.importorskip("wsidicomizer")

# pydicom tells wsidicom, not us, of what will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*get_frame_offsets.*:DeprecationWarning")

UPSCALE = ["upscale", "--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of three levels as DICOM folders, `case.1` and `case.2`."""
    folder = tmp_path_factory.mktemp("made")
    for name, image in (("case.1", stained(501, 379)), ("case.2", 255 - stained(501, 379))):
        source = Sheet(image, Compression("lzw"), "hybrid", 128).write(folder / f"{name}.tif")
        convert(source, folder / name)
        source.unlink()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with both slides, and with both in one folder, `two`."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name in ("case.1", "case.2"):
        shutil.copytree(made / name, tmp_path / "two", dirs_exist_ok=True)
    save_model(tmp_path / "tiny.safetensors", *tiny_generator(scale=4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_opens_like_each_of_its_files(folder: Path) -> None:
    with open_slide(Path("case.1")) as whole:
        assert len(whole.levels) == 3
        assert np.array_equal(whole.frame().read(whole.size.box), stained(501, 379))
        for file in Path("case.1").iterdir():
            with open_slide(file) as slide:
                assert (slide.levels, slide.mpp) == (whole.levels, whole.mpp)
                assert slide.icc_profile == whole.icc_profile == METADATA.icc_profile


def test_its_stamp_is_that_of_all_its_slides_files(folder: Path) -> None:
    with open_slide(Path("case.1")) as slide:
        before = slide.stamp
        Path("case.1/notes.txt").write_text("not of the slide")
        assert slide.stamp == before
        for file in dicom_files(Path("case.1")):
            os.utime(file, ns=(1, slide.stamp[1] + 1))
            assert slide.stamp != before
            before = slide.stamp


@pytest.mark.parametrize("command", [["info"], ["view", "--export", "out"], ["convert", "c.tif"]])
def test_each_command_opens_it(folder: Path, command: list[str]) -> None:
    name, *rest = command
    assert run([name, "case.1", *rest]) == 0


def test_verify_sees_what_it_sees_of_its_files(folder: Path) -> None:
    report = verify(Path("case.1"))
    failed = {each.check for each in report.findings if each.outcome is Verdict.FAILED}
    assert failed == {"provenance"}  # the test's has no model
    assert verify(slide_file(Path("case.1"))).findings == report.findings


def test_it_converts_to_the_dicom_of_its_file(folder: Path) -> None:
    convert(Path("case.1"), Path("one"))
    convert(slide_file(Path("case.1")), Path("other"))
    assert {file.name: file.read_bytes() for file in Path("one").iterdir()} == {
        file.name: file.read_bytes() for file in Path("other").iterdir()
    }


@pytest.mark.parametrize("typed", ["case.1", "case.1/", "./case.1"])
def test_it_is_upscaled_as_one_slide_under_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    Path("case.1/LICENCE").write_text("CC0")
    assert run([*UPSCALE, typed, "--json", "--dry-run", "--crop", "0,0,64,64"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["output"], told["width"]) == ("case.1.x4.ome.tif", 256)


def test_inside_it_the_dot_is_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "case.1")
    arguments = [*UPSCALE, "--model", str(folder / "tiny.safetensors"), "--crop", "0,0,64,64"]
    assert run([*arguments, "."]) == 0
    assert Path("case.1.x4.ome.tif").is_file()
    assert run([*arguments, ".", "--overwrite"]) == 0  # the result is no other slide


def test_it_is_one_of_several_slides(folder: Path) -> None:
    camelyon_style(folder / "a.tif", tissue(64, 64), mpp=0.5, tile=64)
    assert run([*UPSCALE, "case.1", "a.tif", "--crop", "0,0,32,32", "-o", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {
        "a.x4.ome.tif",
        "case.1.x4.ome.tif",
        "summary.json",
    }


# Several slides


def test_a_folder_of_folders_is_searched_for_one_file_a_slide(folder: Path) -> None:
    assert not is_one_slide(Path())
    sources = [item.source for item in find_items([Path("two")], Path(), 4)]
    assert len(sources) == 2
    contents = []
    for source in sources:
        with open_slide(source) as slide:
            contents.append(slide.frame().read(slide.size.box))
    assert any(np.array_equal(each, stained(501, 379)) for each in contents)
    assert any(np.array_equal(each, 255 - stained(501, 379)) for each in contents)
    found = find_items([Path("case.1"), Path("two/..")], Path(), 4)
    assert len([item for item in found if item.source.suffix == ".dcm"]) == 4


def test_a_slide_beside_the_dicom_is_not_overlooked(folder: Path) -> None:
    assert is_one_slide(Path("case.1"))
    for name in ("case.1/a.svs", "case.1/deep/a.ndpi", "case.1/b.zarr"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
        assert not is_one_slide(Path("case.1"))
        Path(name).unlink()
    assert is_one_slide(Path("case.1"))


@pytest.mark.parametrize("command", ["info", "verify", "view"])
def test_a_folder_of_two_slides_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run([command, "two"]) == 2
    line = capsys.readouterr().err
    assert "two: holds 2 DICOM slides. Give a file of one: " in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("command", ["info", "verify", "view", "convert"])
def test_a_folder_that_is_no_slide_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    Path("void").mkdir()
    Path("void/a.dcm").write_bytes(bytes(128) + b"DICM of another kind")
    assert run([command, "void", *(["a.tif"] if command == "convert" else [])]) == 2
    line = capsys.readouterr().err
    assert "void: is a folder that holds neither OME-Zarr nor DICOM" in line
    assert line.count("\n") == 1


def test_without_pydicom_the_first_file_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    assert slide_file(Path("two")) == sorted(Path("two").iterdir())[0]
    assert is_one_slide(Path("case.1"))


# Files


def test_files_count_by_what_they_hold(folder: Path) -> None:
    for number, file in enumerate(sorted(Path("case.1").iterdir())):
        file.rename(f"case.1/IM{number}")
    Path("case.1/notes.dcm").write_text("not DICOM")
    Path("case.1/DICOMDIR").write_bytes(bytes(128) + b"DICM1.2.840.10008.1.3.10")
    os.mkfifo("case.1/pipe.dcm")
    assert [path.name for path in dicom_files(Path("case.1"))] == ["IM0", "IM1", "IM2"]
    assert is_dicom(Path("case.1/DICOMDIR"))
    Path("case.1/pipe.dcm").unlink()  # OpenSlide itself would wait for it
    with open_slide(Path("case.1")) as slide:
        assert len(slide.levels) == 3


def test_broken_files_are_told_by_the_reader_alone(folder: Path) -> None:
    for name, data in malformed_dicom():
        (folder / name).write_bytes(data)
    broken = sorted(folder.glob("*.dcm"))
    assert len(broken) > 3
    good = slide_file(Path("case.1"))
    assert good in one_file_a_slide([*broken, good])
    assert one_file_a_slide([folder / "noise.dcm", folder / "only-a-head.dcm"])
    shutil.rmtree(folder / "two")
    (folder / "two").mkdir()
    head = (folder / "case.1" / good.name).read_bytes()[:1024]
    (folder / "two" / "cut.dcm").write_bytes(head)
    with pytest.raises(RefusedError, match=r"cut\.dcm"):
        open_slide(Path("two"))


def test_patches_take_it_by_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (material,) = find_material([Path("case.1")])
    assert material.name == "case.1"
    arguments = ["patches", "case.1", "-o", "out", "--size", "64", "--max-blur", "1"]
    assert run([*arguments, "--min-tissue", "0", "--per-slide", "2"]) == 0
    assert len(list(Path("out").rglob("case.1_*.png"))) == 2
    two = find_material([Path("two")])
    assert len(two) == 2, "a file of each slide, as for upscale"
