"""The trial reading: what kills or hangs it is refused in one line, and a sound slide passes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from malformed import zarr_folders
from support.slides import camelyon_style, tissue

from slidesr.errors import RefusedError, SlidesrError
from slidesr.runtime import sandbox
from slidesr.runtime.sandbox import MEMORY_EXIT_CODE, check_in_sandbox, main, sandboxed


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    camelyon_style(tmp_path / "a.tif", tissue(300, 260), 0.5, tile=128)
    return tmp_path / "a.tif"


def ending_by(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_command", lambda path: [sys.executable, "-c", code])


def test_a_sound_slide_passes(slide: Path) -> None:
    check_in_sandbox(slide)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "ended in SIGABRT"),
        ("import ctypes; ctypes.string_at(8)", "ended in SIGSEGV"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGXCPU)})", "took over 20 s"),
        (f"raise SystemExit({MEMORY_EXIT_CODE})", "took over 1536 MiB"),
    ],
)
def test_what_kills_the_trial_is_refused(
    slide: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    ending_by(
        f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {code}", monkeypatch
    )
    with pytest.raises(RefusedError, match=rf"a\.tif: a trial reading {message}"):
        check_in_sandbox(slide)


def test_what_hangs_the_trial_is_refused(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_WALL_SECONDS", 0.3)
    ending_by("import time; time.sleep(60)", monkeypatch)
    with pytest.raises(RefusedError, match=r"took over 0\.3 s"):
        check_in_sandbox(slide)


def test_a_trial_that_cannot_be_made_is_no_pass(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_by("raise SystemExit(1)", monkeypatch)
    with pytest.raises(SlidesrError, match="did not run"):
        check_in_sandbox(slide)


def test_the_body_runs_beside_the_trial_and_its_error_ends_it(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_by("import time; time.sleep(60)", monkeypatch)
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), sandboxed(slide):
        raise ZeroDivisionError
    assert time.monotonic() - started < 30


def test_memory_in_the_trial_is_told_from_other_errors(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sandbox, "_limit", lambda *_: None)
    monkeypatch.setattr("slidesr.runtime.sandbox.logging.disable", lambda: None)
    assert main(slide.with_name("nowhere.tif")) == 0
    monkeypatch.setattr("slidesr.slide._trial.open_slide", fail)
    assert main(slide) == MEMORY_EXIT_CODE


@pytest.mark.parametrize(
    ("name", "content", "is_tried"),
    [
        ("a.png", b"\x89PNG" + bytes(200), False),
        ("a.jpg", b"\xff\xd8\xff" + bytes(200), False),
        ("a.mrxs", b"\xff\xd8\xff" + bytes(200), True),
        ("a.dcm", b"\x89PNG" + bytes(124) + b"DICM", True),
        ("a.tif", b"II*\0", True),
        ("a.vms", b"[Virtual Microscope Specimen]", True),
    ],
)
def test_only_what_pillow_alone_reads_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, *, is_tried: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    ending_by("import os; os.abort()", monkeypatch)
    if is_tried:
        with pytest.raises(RefusedError):
            check_in_sandbox(tmp_path / name)
    else:
        check_in_sandbox(tmp_path / name)


_LIMITS_WHEN_A_READER_IS_IMPORTED = """
import resource, runpy, sys
class Watch:
    def find_spec(self, name, *_):
        if name in ("openslide", "tifffile", "PIL"):
            kinds = resource.RLIMIT_CPU, resource.RLIMIT_AS
            print(name, *(resource.getrlimit(kind)[0] for kind in kinds), file=sys.stderr)
sys.meta_path.insert(0, Watch())
sys.argv[1:] = ["nowhere.tif"]
runpy.run_module("slidesr.runtime.sandbox", run_name="__main__", alter_sys=True)
"""


def test_the_limits_hold_before_a_reader_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LIMITS_WHEN_A_READER_IS_IMPORTED],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stderr.splitlines()]
    assert {line[0] for line in lines} == {"openslide", "tifffile", "PIL"}
    assert {tuple(line[1:]) for line in lines} == {("20", str(1536 << 20))}


def test_a_chunk_that_decodes_to_gigabytes_is_refused(tmp_path: Path) -> None:
    """It took 20 GB, and the trial's own error was taken for an unreadable tile."""
    stores = {path.name: path for _, path in zarr_folders.stores(tmp_path)}
    with pytest.raises(RefusedError, match="took over 1536 MiB"):
        check_in_sandbox(stores["chunk-zstd.zarr"])


@pytest.mark.parametrize("name", ["nowhere.tif", "n\0ul.tif", "."])
def test_what_is_no_file_is_left_to_the_opener(tmp_path: Path, name: str) -> None:
    check_in_sandbox(tmp_path / name)
