"""The command line: one line and the right exit code for every mistake, and nothing written."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
from PIL import Image
from support.slides import camelyon_style, tissue

from slidesr.cli import cli, run
from slidesr.cli.show import LineHandler
from slidesr.model.weights import save_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a slide, a broken one, and tiny weights for x4."""
    from support.models import tiny_generator

    camelyon_style(tmp_path / "slide.tif", tissue(300, 260, seed=5), mpp=0.5)
    (tmp_path / "text.svs").write_text("not a slide")
    (tmp_path / "empty.tif").touch()
    whole = (tmp_path / "slide.tif").read_bytes()
    (tmp_path / "half.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "link.ome.tif").symlink_to("slide.tif")
    (tmp_path / "taken.ome.tif").write_bytes(b"taken")
    Image.fromarray(np.zeros((10, 90), np.uint8)).save(tmp_path / "wide.png")
    (tmp_path / "roi.geojson").write_text("{}")
    (tmp_path / "void").mkdir()
    spec, generator = tiny_generator(scale=4)
    save_model(tmp_path / "tiny.safetensors", spec, generator)
    monkeypatch.chdir(tmp_path)
    return tmp_path


UPSCALE = ["--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.svs"], "nowhere.svs"),
        (["text.svs"], "text.svs: not a slide"),
        (["empty.tif"], "empty"),
        (["half.tif"], "half.tif"),
        (["void"], "no slides here"),
        (["slide.tif", "--keep-metadata", "aperio.Patient"], "no metadata 'aperio.Patient'"),
        (["slide.tif", "text.svs", "--dry-run"], "one slide at a time"),
        (["slide.tif", "text.svs", "-o", "taken.ome.tif"], "is a file"),
        (["slide.tif", "--level", "9"], "no level 9"),
        (["slide.tif", "--level", "1", "--mpp", "2"], "only one"),
        (["slide.tif", "--mpp", "0.1"], "finer than level 0"),
        (["slide.tif", "--mpp", "-1"], "not positive"),
        (["slide.tif", "--source-mpp", "0"], "not positive"),
        (["slide.tif", "--crop", "9000,0,10,10"], "outside the slide"),
        (["slide.tif", "-o", "link.ome.tif", "--overwrite"], "is the input itself"),
        (["slide.tif", "-o", "slide.tif", "--overwrite"], "is the input itself"),
        (["slide.tif", "-o", "taken.ome.tif"], "--overwrite"),
        (["slide.tif", "-o", "nowhere/out.ome.tif"], "no folder"),
        (["slide.tif", "-o", "out.png"], "must end with"),
        (["slide.tif", "--scale", "16"], "not x16"),
        (["slide.tif", "--tissue", "wide.png"], "wide.png"),
        (["slide.tif", "--tissue", "nowhere.png"], "nowhere.png"),
        (["slide.tif", "--roi", "roi.geojson"], "roi.geojson"),
        (["slide.tif", "--model", "nothing"], "neither a file nor a shipped model"),
        (["slide.tif", "--model", "text.svs"], "text.svs"),
        (["slide.tif", "--device", "quantum"], "quantum"),
        (["slide.tif", "--device", "cuda:99"], "CUDA devices"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(["upscale", *UPSCALE, *arguments]) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("arguments", [["--crop", "1,2,3"], ["--scale", "3"], ["--colour"]])
def test_a_wrong_option_is_refused(folder: Path, arguments: list[str]) -> None:
    assert run(["upscale", "slide.tif", *arguments]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write")
def test_a_folder_that_cannot_be_written_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upscale", *UPSCALE, "slide.tif", "-o", "/proc/out.ome.tif"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_without_output_the_name_is_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upscale", *UPSCALE, "--json", "slide.tif"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] == "slide.x4.ome.tif"
    assert told["size"] == {"width": 1200, "height": 1040}
    assert told["mpp"] == {"x": 0.125, "y": 0.125}
    assert set(told["stage_s"]) == {
        "read",
        "wait for reading",
        "network",
        "encode",
        "write",
        "checkpoint",
        "publish",
    }
    assert (folder / "slide.x4.ome.tif").exists()


def test_a_profile_tells_where_the_time_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upscale", *UPSCALE, "slide.tif", "--profile"]) == 0
    said = capsys.readouterr().out
    for word in ("network", "read", "encode", "share of the time", "convolution"):
        assert word in said
    events = json.loads((folder / "slide.x4.ome.tif.trace.json").read_text())["traceEvents"]
    assert {"read", "network", "encode"} <= {event["name"] for event in events}
    main = [event for event in events if event["name"] in ("network", "write", "wait for reading")]
    ends = [event["ts"] + event["dur"] for event in main]
    starts = [event["ts"] for event in main]
    assert len({event["tid"] for event in main}) == 1
    assert all(end <= start + 1 for end, start in zip(ends, starts[1:], strict=False))


def test_an_ensemble_is_named_and_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {"single.ome.tif": [], "ensemble.ome.tif": ["--ensemble"]}
    for output, choice in outputs.items():
        assert run(["upscale", *UPSCALE, "slide.tif", "-o", output, "--json", *choice]) == 0
        model = json.loads(capsys.readouterr().out)["model"]
        assert model == f"tiny{' + ensemble' * bool(choice)}, consistent to 2"
    single, ensemble = (tifffile.imread(output).astype(int) for output in outputs)
    assert single.shape == ensemble.shape == (1040, 1200, 3)
    assert 0 < np.abs(single - ensemble).mean() < 5


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(folder.iterdir())
    assert run(["upscale", *UPSCALE, "--json", "--dry-run", "slide.tif"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["width"], told["height"]) == (1200, 1040)
    assert told["estimated_bytes"] > 0
    assert set(folder.iterdir()) == before


def test_info_tells_what_a_slide_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--json", "slide.tif"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["width"], told["height"], told["mpp"]) == (300, 260, 0.5)
    assert run(["info", "slide.tif"]) == 0
    assert "300 x 260" in capsys.readouterr().out


def test_models_lists_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    assert "wa-srgan-x4-fidelity" in capsys.readouterr().out


def test_control_characters_and_markup_are_shown_not_obeyed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upscale", "a[bold]\x1b[31m\n.svs"]) == 2
    line = capsys.readouterr().err
    assert "[bold]" in line
    assert "\x1b[31m" not in line
    assert line.count("\n") == 1


def test_names_and_words_of_files_are_inert_in_tables_and_warnings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "[bold]\x1b[31mred\n.tif"
    (folder / "slide.tif").rename(folder / name)
    assert run(["info", name]) == 0
    logging.getLogger("slidesr").addHandler(handler := LineHandler())
    try:
        logging.getLogger("slidesr.slide").warning("%s: %s", name, "long " * 100)
    finally:
        logging.getLogger("slidesr").removeHandler(handler)
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert r"[bold]\x1b[31mred\n.tif" in text
        assert "\x1b[31m" not in text
    assert told.err.startswith("warning: ")
    assert told.err.count("\n") == 1


def test_a_slide_that_kills_its_trial_is_refused_by_each_command(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    abort = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr("slidesr.runtime.sandbox._command", lambda path: abort)
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
    (folder / "second.tif").write_bytes((folder / "slide.tif").read_bytes())
    for arguments, code in (
        (["upscale", *UPSCALE, "slide.tif"], 2),
        (["upscale", *UPSCALE, "slide.tif", "second.tif", "-o", "many"], 2),
        (["info", "slide.tif"], 2),
        (["patches", "slide.tif", "-o", "patches"], 2),
        (["demo", "slide.tif"], 2),
    ):
        assert run(arguments) == code
        told = capsys.readouterr().err + caplog.text
        caplog.clear()
        assert "slide.tif: a trial reading ended in SIGABRT" in told


def test_a_fault_of_ours_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("slidesr.api.slides.prepared", fault)
    assert run(["upscale", "slide.tif"]) == 1
    line = capsys.readouterr().err
    assert "ZeroDivisionError" in line
    assert "Traceback" not in line


def test_a_stop_that_a_library_takes_for_a_fault_is_a_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pydantic does, where a signal meets it at work."""

    def stopped(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("a schema is wrong") from error

    monkeypatch.setattr("slidesr.slide.open_slide", stopped)
    monkeypatch.setattr("slidesr.cli.interrupts._received", [15])
    assert run(["info", "slide.tif"]) == 143
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_a_library_that_is_being_loaded(number: int, tmp_path: Path) -> None:
    """Some swallow the exception, and torch may abort."""
    (tmp_path / "swallows.py").write_text(
        "import time\n"
        "try:\n    print('loading', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('went on')\n"
    )
    program = "from slidesr.cli import interrupts; interrupts.install()"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; import swallows"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        printed, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (printed, said.strip()) == ("", "slidesr: stopped")


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        (["--no-consistent", "--tolerance", "1"], "--tolerance has no effect"),
        (["--compression", "lzw", "--quality", "30"], "--quality has no effect"),
        (["--batch-size", "64", "--device", "cpu"], "--batch-size is for GPUs"),
        (["--crop", "99999,0,10,10"], "the crop 99999,0,10,10 lies outside"),
    ],
)
def test_an_option_without_effect_is_refused(
    choices: list[str], why: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upscale", "slide.tif", *choices]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


def test_help_shows_every_default() -> None:
    for command in cli.commands.values():
        for option in command.params:
            if isinstance(option, click.Option) and option.help and not option.is_flag:
                shown = option.show_default or "[default: " in option.help
                default = option.get_default(click.Context(command))
                has_default = isinstance(default, str | int | float)
                assert shown or not has_default, (command.name, option.name)
