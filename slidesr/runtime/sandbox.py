"""Tries a slide in a process of its own, since what libraries do on hostile files cannot be caught.

OpenSlide, libtiff and tifffile abort, crash, hang or fill the memory on some of them. The trial
reads three tiles of each level: it shows that a slide opens, not that all of it is sound.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidesr.errors import RefusedError, SlidesrError

SECONDS = 20  # of processor time
MEMORY_BYTES = 3 << 29  # of address space
MEMORY_EXIT_CODE = 3
_MOST_SECONDS = 50  # of the clock
_HARMLESS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"RIFF")  # Pillow's own, capped by size
_PACKAGES = Path(__file__).parents[2]


@contextmanager
def tried(path: Path) -> Iterator[None]:
    """Tries a slide while the body does something else; RefusedError if it cannot be survived."""
    process = None if _is_harmless(path) else _started(path)
    try:
        yield
        if process is not None:
            _judge(path, process)
    finally:
        if process is not None:
            process.kill()
            process.wait()


def try_slide(path: Path) -> None:
    """Tries a slide; RefusedError if it cannot be survived."""
    with tried(path):
        pass


def _is_harmless(path: Path) -> bool:
    """Whether no library that may die reads it, or nothing can.

    MIRAX begins with a JPEG, and DICOM with 128 bytes of anything.
    """
    try:
        if not path.is_file():
            return not path.is_dir()  # a folder may be a Zarr store, by any name
        with path.open("rb") as file:
            head = file.read(132)
    except (OSError, ValueError):
        return True
    is_slide = path.suffix.lower() == ".mrxs" or head[128:] == b"DICM"
    return head.startswith(_HARMLESS) and not is_slide


def _command(path: Path) -> list[str]:
    # -P: a numpy.py in the current folder is nobody's business.
    return [sys.executable, "-P", "-m", "slidesr.slide", os.fspath(path)]


def _started(path: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(  # noqa: S603
        _command(path),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _judge(path: Path, process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait(_MOST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _hostile(path, f"took over {_MOST_SECONDS} s") from error
    if code == -signal.SIGXCPU:
        raise _hostile(path, f"took over {SECONDS} s")
    if code == MEMORY_EXIT_CODE:
        raise _hostile(path, f"took over {MEMORY_BYTES >> 20} MiB")
    if code < 0:
        raise _hostile(path, f"ended in {signal.Signals(-code).name}")
    if code:
        raise SlidesrError(f"{path}: the trial reading could not be made (exit code {code}).")


def _hostile(path: Path, what: str) -> RefusedError:
    return RefusedError(
        f"{path}: a trial reading {what}: the file is broken or hostile. Give a sound copy."
    )
