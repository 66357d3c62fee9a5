"""Every command sees the same picture in a file of an unusual kind, or every one refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.models import tiny_generator
from support.odd_files import ODD_FILES, STRIPS, TILED, OddFile
from support.tiffs import U8, resolution

from slidesr.cli import run
from slidesr.geometry import Mpp
from slidesr.model.weights import save_model
from slidesr.runtime import sandbox
from slidesr.slide.image_files import image_size, read_rgb

BY_NAME = {file.name: file for file in ODD_FILES}
EVERYWHERE = [
    BY_NAME[name]
    for name in (
        "channels-bgr-colours.ome.tif",
        "macro-first.ome.tif",
        "orientation-6-tiled.tif",
        "premultiplied-subifd.ome.tif",
        "palette-tiled.tif",
        "exif-6.png",
        "deep-rgb-tiled-12-bits.tif",
    )
]
NOWHERE = [
    BY_NAME[name]
    for name in (
        "channels-stains.ome.tif",
        "stack-z.ome.tif",
        "two-equal.ome.tif",
        "deep-rgb-subifd.ome.tif",
        "float32-None.tif",
        "cielab-strips.tif",
        "animation.png",
    )
]
# One of each kind: what differs in tiles and strips alone is for the test of the reader.
KINDS = [
    file
    for file in ODD_FILES
    if not any(part in file.name for part in ("strips", "-auto", "planar", "webp", "jpg", "gif"))
    and not any(f"-{number}-" in file.name for number in (1, 2, 4, 5, 7, 8))
]
Command = Callable[[Path, Path], list[str]]
COMMANDS: dict[str, Command] = {
    "info": lambda source, out: ["info", str(source)],
    "convert": lambda source, out: ["convert", str(source), str(out / "a.ome.tif")],
    "upscale": lambda source, out: [
        *("upscale", str(source), "-o", str(out / "a.ome.tif"), "--device", "cpu"),
        *("--scale", "2", "--tissue", "all", "--compression", "deflate", "--model", _weights(out)),
    ],
    "patches": lambda source, out: [
        *("patches", str(source), "-o", str(out / "patches"), "--size", "64", "--split", "1,0,0"),
        *("--min-tissue", "0", "--max-blur", "1"),
    ],
    "benchmark": lambda source, out: [
        *("benchmark", str(source), "-o", str(out / "benchmark"), "--scale", "2"),
        *("--model", _weights(out), "--device", "cpu"),
    ],
    "view": lambda source, out: ["view", str(source), "--export", str(out / "page")],
}


def named(file: OddFile) -> str:
    return file.name


def _weights(out: Path) -> str:
    path = out / "tiny.safetensors"
    if not path.exists():
        save_model(path, *tiny_generator(scale=2))
    return str(path)


def told(command: str, source: Path, out: Path, file: OddFile) -> list[str]:
    """The command line; with the window that the file needs."""
    window = ["--window", str(file.window)] if file.window else []
    return [*COMMANDS[command](source, out), *window]


def plain_twin(file: OddFile, folder: Path) -> Path:
    """A plain TIFF of the same name with the pixels that the odd file should show."""
    assert isinstance(file.right, np.ndarray)
    folder.mkdir()
    path = folder / f"{file.name.partition('.')[0]}.tif"
    size = resolution(mpp=file.mpp) if file.mpp else {}
    layout = TILED if file.name.endswith(".tif") else STRIPS
    tifffile.imwrite(path, file.right, photometric="rgb", metadata=None, **layout, **size)
    return path


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial in a child process takes a second and decides nothing here."""
    monkeypatch.setattr(sandbox, "_needs_no_trial", lambda path: True)


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("file", KINDS, ids=named)
def test_info_and_convert_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: OddFile
) -> None:
    source, out = file.write(tmp_path), tmp_path / "a.ome.tif"
    window = ["--window", str(file.window)] if file.window else []
    convert = ["convert", str(source), str(out), "--compression", "deflate", *window]
    if isinstance(file.right, str):
        assert (run(["info", str(source), *window]), run(convert)) == (2, 2)
        first, second = capsys.readouterr().err.splitlines()
        assert first == second
        assert not out.exists()
        return
    assert run(["info", "--json", str(source), *window]) == 0
    facts = json.loads(capsys.readouterr().out)
    height, width, _ = file.right.shape
    assert (facts["width"], facts["height"]) == (width, height)
    assert facts["mpp"] == (file.mpp and pytest.approx(Mpp(*file.mpp).mean, rel=1e-4))
    assert run(convert) == 0
    difference = np.abs(tifffile.imread(out, series=0, level=0).astype(int) - file.right)
    assert difference.max() <= file.tolerance


@pytest.mark.parametrize("file", NOWHERE, ids=named)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("no_trial")
def test_what_one_command_refuses_all_refuse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    command: str,
    file: OddFile,
) -> None:
    source, out = file.write(tmp_path), tmp_path / "out"
    out.mkdir()
    cuts = command in ("patches", "benchmark")  # these go on with other slides, if there are any
    assert run(told(command, source, out, file)) in ((1, 2) if cuts else (2,))
    said = capsys.readouterr().err
    assert said.startswith("slidesr: ")
    assert said.count("\n") == 1
    assert str(source) in (caplog.text + said if cuts else said)
    assert not [path for path in out.rglob("*.*") if path.suffix in (".tif", ".png", ".html")]


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("file", NOWHERE[:3], ids=named)
def test_verify_says_that_slidesr_refuses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: OddFile,
) -> None:
    monkeypatch.setenv("PATH", "")  # without Java, which takes five seconds
    run(["verify", "--json", str(file.write(tmp_path))])
    assert "slidesr refuses it" in capsys.readouterr().out


@pytest.mark.parametrize("file", EVERYWHERE, ids=named)
def test_every_command_shows_what_a_plain_file_would(tmp_path: Path, file: OddFile) -> None:
    """The trial runs as well: a file that it refuses is refused by every command."""
    source, twin = file.write(tmp_path), plain_twin(file, tmp_path / "twin")
    outs = tmp_path / "odd", tmp_path / "plain"
    for out in outs:
        out.mkdir()
    for command in ("convert", "upscale", "view"):
        assert run(told(command, source, outs[0], file)) == 0
        assert run(COMMANDS[command](twin, outs[1])) == 0
        alike(*(_pixels(out) for out in outs))
        for out in outs:
            (out / "a.ome.tif").unlink(missing_ok=True)


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("file", EVERYWHERE, ids=named)
def test_patches_are_those_of_a_plain_file(tmp_path: Path, file: OddFile) -> None:
    if not file.name.endswith(".tif"):
        pytest.skip("patches are cut of slides")
    source, twin = file.write(tmp_path), plain_twin(file, tmp_path / "twin")
    outs = tmp_path / "odd", tmp_path / "plain"
    assert run(told("patches", source, outs[0], file)) == 0
    assert run(COMMANDS["patches"](twin, outs[1])) == 0
    found, right = (
        {_place(path): path.read_bytes() for path in out.rglob("*.png")} for out in outs
    )
    assert found
    assert found == right


@pytest.mark.parametrize("file", [each for each in EVERYWHERE if not each.window], ids=named)
def test_benchmark_and_training_read_the_same(tmp_path: Path, file: OddFile) -> None:
    path = file.write(tmp_path)
    np.testing.assert_array_equal(read_rgb(path), file.right)
    assert image_size(path).width == read_rgb(path).shape[1]


def _place(patch: Path) -> str:
    """The name of a patch, which tells its place; that of the slide is another in a twin."""
    return patch.name


def _pixels(out: Path) -> dict[str, U8]:
    """What a command wrote: level 0 of a TIFF, and the tiles of a page."""
    tiles = {
        str(path.relative_to(out)): np.frombuffer(path.read_bytes(), np.uint8)
        for path in out.glob("page/*_files/*/*.jpg")
    }
    slides = {path.name: tifffile.imread(path, series=0, level=0) for path in out.glob("*.tif")}
    return tiles | slides


def alike(found: dict[str, U8], right: dict[str, U8]) -> None:
    assert found
    assert found.keys() == right.keys()
    for name, pixels in right.items():
        np.testing.assert_array_equal(found[name], pixels, err_msg=name)
