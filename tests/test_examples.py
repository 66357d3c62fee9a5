"""Every example runs in an empty folder, and does what it says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slidesr.slide import open_slide

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "train_your_own.ipynb"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_script_upscales_and_openslide_reads_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("upscale_from_python.py", monkeypatch)
    assert "100%" in capsys.readouterr().out
    with open_slide(Path("sample.x2.ome.tif")) as slide:
        assert (slide.size.width, slide.size.height) == (768, 512)
    _run("read_result_with_openslide.py", monkeypatch)
    assert "um per pixel: 0.25" in capsys.readouterr().out
    with Image.open("region.png") as region:
        assert region.size == (512, 512)


def test_a_script_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.svs").write_text("not a slide")
    with pytest.raises(SystemExit, match=r"refused: .*not a slide"):
        _run("upscale_from_python.py", monkeypatch, "text.svs")


@pytest.mark.slow
def test_the_notebook_trains_weights_that_are_above_bicubic() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(_code_cells()):
        exec(compile(source, f"{NOTEBOOK.name}, code cell {number}", "exec"), names)  # noqa: S102
    assert names["made_db"] > names["bicubic_db"]


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_every_example_is_told_in_the_readme() -> None:
    told = (EXAMPLES / "README.md").read_text()
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert [name for name in files if f"]({name})" not in told] == []


def _run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def _code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
