"""Many slides: none stops the others, what is done stays done, and the summary tells it all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.damage import break_tile
from support.models import tiny_generator
from support.slides import camelyon_style, tissue

from slidesr.cli import run
from slidesr.errors import RefusedError
from slidesr.geometry import Box
from slidesr.model.weights import save_model
from slidesr.pipeline.find_slides import BatchItem, find_items


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Good slides, bad ones, and a folder of them; the working folder."""
    (tmp_path / "deep/er").mkdir(parents=True)
    for seed, name in enumerate(("a.tif", "deep/b.svs", "deep/er/a.tif")):
        camelyon_style(tmp_path / name, tissue(200, 150, seed=seed), mpp=0.5, tile=64)
    (tmp_path / "deep/text.svs").write_text("Jane Doe")
    camelyon_style(tmp_path / "deep/torn.tif", tissue(200, 150, seed=9), mpp=0.5, tile=64)
    break_tile(tmp_path / "deep/torn.tif", Box(64, 0, 64, 64))
    save_model(tmp_path / "tiny.safetensors", *tiny_generator(scale=4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


UPSCALE = ["upscale", "--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]


def told(folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return plain


def statuses(folder: Path) -> dict[str, str]:
    return {slide["input"]: slide["status"] for slide in told(folder)["slides"]}


def test_one_bad_slide_stops_no_other_and_the_next_run_does_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*UPSCALE, "a.tif", "deep", "-o", "out"]) == 1
    assert statuses(folder / "out") == {
        "a.tif": "done",
        "deep/b.svs": "done",
        "deep/text.svs": "refused",
        "deep/torn.tif": "failed",
        "deep/er/a.tif": "done",
    }
    captured = capsys.readouterr()
    assert "deep/text.svs: not a slide" in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert "torn.tif" in captured.out
    made = sorted(str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*"))
    assert made == ["a.x4.ome.tif", "b.x4.ome.tif", "er", "er/a.x4.ome.tif", "summary.json"]
    before = (folder / "out/a.x4.ome.tif").stat().st_mtime_ns
    (folder / "deep/text.svs").unlink()
    assert run([*UPSCALE, "a.tif", "deep", "-o", "out", "--on-bad-tile", "fill"]) == 3
    assert statuses(folder / "out") == {
        "a.tif": "there",
        "deep/b.svs": "there",
        "deep/torn.tif": "filled",
        "deep/er/a.tif": "there",
    }
    assert (folder / "out/a.x4.ome.tif").stat().st_mtime_ns == before
    assert told(folder / "out")["count"] == {"filled": 1, "there": 3}


def test_the_summary_is_json_on_request_and_tells_no_more_than_was_given(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*UPSCALE, "a.tif", "deep/b.svs", "-o", "out", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == told(folder / "out")
    assert str(folder) not in out
    assert told(folder / "out")["slides"][0]["summary"]["size"] == {"width": 800, "height": 600}


def test_an_output_of_another_model_is_no_result(folder: Path) -> None:
    assert run([*UPSCALE, "a.tif", "deep/b.svs", "-o", "out"]) == 0
    spec, generator = tiny_generator(scale=4)
    generator.requires_grad_(False)
    next(generator.parameters()).add_(0.1)
    save_model(folder / "tiny.safetensors", spec, generator)
    assert run([*UPSCALE, "a.tif", "deep/b.svs", "-o", "out"]) == 2
    assert "made by tiny" in told(folder / "out")["slides"][0]["why"]
    assert run([*UPSCALE, "a.tif", "deep/b.svs", "-o", "out", "--overwrite"]) == 0


def test_a_model_that_is_none_is_refused_before_any_slide(folder: Path) -> None:
    assert run(["upscale", "--model", "nothing", "a.tif", "deep", "-o", "out"]) == 2
    assert list((folder / "out").iterdir()) == []


def test_a_single_slide_goes_into_a_folder_that_is_there(folder: Path) -> None:
    (folder / "out").mkdir()
    assert run([*UPSCALE, "a.tif", "-o", "out"]) == 0
    assert [path.name for path in (folder / "out").iterdir()] == ["a.x4.ome.tif"]


def test_folders_are_searched_for_slides_alone(tmp_path: Path) -> None:
    names = ["b.SVS", "a.ndpi", "notes.txt", ".hidden.tif", "a.x4.ome.tif", "x/one.dcm"]
    for name in (
        *names,
        "x/two.dcm",
        "z.zarr.zip",
        "z.zip",
        "y.zarr/0/0.tif",
        ".z/a.tif",
        "photo.jpg",
        "x.x4.tif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(item.source.relative_to(tmp_path)) for item in find_items([tmp_path], Path(), 4)]
    assert found == ["a.ndpi", "b.SVS", "x.x4.tif", "y.zarr", "z.zarr.zip", "x/one.dcm"]


def test_outputs_never_share_a_name() -> None:
    twins = [Path("in/a.svs"), Path("in/a.tif"), Path("in/b.svs"), Path("in/a.svs")]
    assert find_items(twins, Path("out"), 2) == [
        BatchItem(Path("in/a.svs"), Path("out/a.svs.x2.ome.tif")),
        BatchItem(Path("in/a.tif"), Path("out/a.tif.x2.ome.tif")),
        BatchItem(Path("in/b.svs"), Path("out/b.x2.ome.tif")),
    ]
    with pytest.raises(RefusedError, match="two slides have this name"):
        find_items([Path("in/a.svs"), Path("other/a.svs")], Path("out"), 2)


def test_a_stop_ends_it_all_and_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "deep")
    for name in ("b.tif", "c.tif"):
        camelyon_style(folder / name, tissue(200, 150, seed=3), mpp=0.5, tile=64)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "unrelated.png")
    calls = 0

    def interrupt(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("slidesr.output.ome_tiff.OmeTiffWriter.settle", interrupt)
        assert run([*UPSCALE, ".", "-o", "out"]) == 130
    assert "the same command resumes from here" in capsys.readouterr().err
    assert list(statuses(folder / "out").values()) == ["done"]
    assert run([*UPSCALE, ".", "-o", "out"]) == 0
    assert sorted(statuses(folder / "out").values()) == ["done", "done", "there"]
