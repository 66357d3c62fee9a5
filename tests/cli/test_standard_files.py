"""Commands whose stdin, stdout or stderr is closed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from support.models import tiny_generator
from support.slides import tissue

from slidesr.model.weights import save_model

ALL = "<&- >&- 2>&-"
UPSCALE = ["--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stripped TIFF, for which libtiff's own messages are kept off stderr, and tiny weights."""
    image = tissue(200, 150)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", rowsperstrip=16)
    save_model(tmp_path / "tiny.safetensors", *tiny_generator(scale=4))
    (tmp_path / "text.svs").write_text("not a slide")
    return tmp_path


def ended(folder: Path, closed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that a shell starts with these files closed."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *arguments]
    return subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_what_is_open_is_written(folder: Path, closed: str) -> None:
    done = ended(folder, closed, "-m", "slidesr", "info", "--json", "a.tif")
    assert done.returncode == 0
    assert json.loads(done.stdout)["width"] == 200


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["--help"], 0),
        (["info", "a.tif"], 0),
        (["verify", "a.tif"], 0),
        (["upscale", *UPSCALE, "--dry-run", "a.tif"], 0),
        (["convert", "a.tif", "b.ome.tif"], 0),
        (["info", "text.svs"], 2),
        (["info", "--colour"], 2),
    ],
    ids=lambda each: " ".join(each[:1]) if isinstance(each, list) else str(each),
)
def test_the_exit_code_is_the_usual_one(folder: Path, command: list[str], code: int) -> None:
    assert ended(folder, ALL, "-m", "slidesr", *command).returncode == code


def test_a_file_of_the_user_never_takes_the_place_of_stderr(folder: Path) -> None:
    """The first file to be opened would get number 2, and the messages of C libraries."""
    script = (
        "import os; from slidesr.runtime.standard_files import open_standard_files as opened;"
        "opened(); file = open('user', 'wb');"
        "os.write(1, b'told'); os.write(2, b'told'); os.read(0, 1); print('told');"
        "os.system('echo told >&2')"
    )
    done = ended(folder, ALL, "-c", script)
    assert done.returncode == 0
    assert (folder / "user").read_bytes() == b""


def test_files_that_are_open_stay_as_they_are(folder: Path) -> None:
    script = (
        "from slidesr.runtime.standard_files import open_standard_files as opened; import sys, os;"
        "count = lambda: len(os.listdir('/proc/self/fd')); before = count();"
        "opened(); print('out', count() - before); print('err', file=sys.stderr)"
    )
    done = ended(folder, "", "-c", script)
    assert (done.stdout, done.stderr) == ("out 0\n", "err\n")
