"""Outputs with names as long as the file system takes: they work, or are refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.blocks import Sheet, stained
from support.files import content
from support.models import tiny_generator
from support.slides import camelyon_style, tissue
from support.zarr_files import Store

from slidesr.cli import run
from slidesr.model.weights import save_model
from slidesr.output.writer import SlideWriter
from slidesr.pipeline.convert import convert

LENGTHS = [239, 240, 246, 255]  # in bytes
SHEET = Sheet(stained(301, 279), tile_px=64)
UPSCALE = ["upscale", "--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]


def named(length: int, letter: str, suffix: str) -> str:
    """A name of so many bytes."""
    room = length - len(suffix)
    width = len(letter.encode())
    return "b" * (room % width) + letter * (room // width) + suffix


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a slide and tiny weights."""
    camelyon_style(tmp_path / "a.tif", tissue(200, 150), mpp=0.5, tile=64)
    save_model(tmp_path / "tiny.safetensors", *tiny_generator(scale=4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("letter", ["a", "𝄞"])
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_an_output_of_any_name_is_written_and_replaced(
    folder: Path, length: int, letter: str, suffix: str
) -> None:
    output = folder / named(length, letter, suffix)
    before = set(folder.iterdir())
    for overwrite in (False, True):
        assert convert(folder / "a.tif", output, overwrite=overwrite).exists()
        assert set(folder.iterdir()) - before == {output}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_a_stopped_output_of_any_name_is_resumed(
    tmp_path: Path, eager: None, length: int, suffix: str
) -> None:
    opened = writers()[suffix]
    whole, output = tmp_path / f"whole{suffix}", tmp_path / named(length, "ü", suffix)
    write(opened, whole, stops=False)
    write(opened, output, stops=True)
    assert not output.exists()
    assert write(opened, output, stops=False) == 2
    assert content(output) == content(whole)
    assert set(tmp_path.iterdir()) == {whole, output}


Opened = Callable[[Path], SlideWriter]


def writers() -> dict[str, Opened]:
    return {".ome.tif": SHEET.writer, ".ome.zarr": Store(SHEET, "0.4").writer}


def write(opened: Opened, path: Path, *, stops: bool) -> int:
    """Writes two blocks, or all that are left; the number of those that were there already."""
    with opened(path) as writer:
        resumed = writer.resumed
        for index, painted in list(enumerate(SHEET.painted()))[resumed : 2 if stops else None]:
            writer.append(writer.encode(painted))
            writer.settle(index + 1)
        if not stops:
            writer.finish()
    return resumed


@pytest.mark.parametrize("length", [246, 255])
def test_a_dicom_folder_of_any_name_is_written_and_replaced(folder: Path, length: int) -> None:
    pytest.importorskip("wsidicomizer")
    source = Sheet(stained(501, 379), tile_px=128).write(folder / "b.ome.tif")
    output, before = folder / named(length, "ü", ""), set(folder.iterdir())
    for overwrite in (False, True):
        convert(source, output, overwrite=overwrite)
        assert set(folder.iterdir()) - before == {output}


def test_an_export_of_any_name_is_written(folder: Path) -> None:
    output, before = named(255, "ü", ""), set(folder.iterdir())
    assert run(["view", "a.tif", "--export", output]) == 0
    assert set(folder.iterdir()) - before == {folder / output}


@pytest.mark.parametrize("length", [241, 255])
def test_a_slide_is_upscaled_and_profiled_under_any_name(folder: Path, length: int) -> None:
    output, before = named(length, "ü", ".ome.tif"), set(folder.iterdir())
    assert run([*UPSCALE, "a.tif", "-o", output, "--profile"]) == 0
    new = {path.name for path in set(folder.iterdir()) - before}
    assert output in new
    (trace,) = new - {output}
    assert trace.endswith(".trace.json")


@pytest.mark.parametrize(
    "command",
    [
        ["upscale", "a.tif", "-o", named(256, "a", ".ome.tif")],
        ["upscale", "a.tif", "-o", named(256, "ü", ".ome.zarr")],
        ["upscale", "a.tif", "a.tif", "-o", named(256, "ü", "")],
        ["upscale", "a.tif", "--dry-run", "-o", named(256, "a", ".ome.tif")],
        ["convert", "a.tif", named(256, "ü", ".ome.tif")],
        ["convert", "a.tif", named(256, "ü", "")],
        ["view", "a.tif", "--export", named(256, "ü", "")],
        ["patches", "a.tif", "-o", named(256, "ü", "")],
        ["patches", named(252, "a", ".tif"), "-o", "patches"],
        ["upscale", named(252, "a", ".tif")],  # by default with .x4.ome.tif at the end
        ["info", named(256, "a", ".tif")],
    ],
    ids=lambda command: f"{command[0]} {command[1][:5]}",
)
def test_a_name_that_is_too_long_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    if command[1] == named(252, "a", ".tif"):
        (folder / "a.tif").rename(folder / command[1])
    before = {path: content(path) for path in folder.iterdir()}
    own = ["--model", "tiny.safetensors", "--device", "cpu"] if command[0] == "upscale" else []
    assert run([*command, *own]) == 2
    told = capsys.readouterr().err
    assert "too long" in told
    assert told.count("\n") == 1
    assert {path: content(path) for path in folder.iterdir() if path.name != "patches"} == before


def test_a_slide_of_too_long_a_name_stops_no_other(folder: Path) -> None:
    (folder / named(252, "a", ".tif")).write_bytes((folder / "a.tif").read_bytes())
    assert run([*UPSCALE, ".", "-o", "out"]) == 2
    assert [path.name for path in sorted((folder / "out").iterdir())] == [
        "a.x4.ome.tif",
        "summary.json",
    ]
