"""Reads a little of a slide in a child process with limits, before this process opens it.

OpenSlide, libtiff and tifffile abort, crash, hang or exhaust the memory on some hostile files, and
none of that can be caught. The child reads three tiles of each level: it shows that the slide
opens, not that all of it is sound. This module is the child's entry as well:
`python -P -m slidesr.runtime.sandbox PATH`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidesr.errors import RefusedError, SlidesrError

MEMORY_EXIT_CODE = 3
_CPU_SECONDS = 20
_WALL_SECONDS = 50
_MEMORY_BYTES = 3 << 29  # of address space
_SAFE_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"RIFF")  # Pillow's own, capped by size
_IMPORT_ROOT = Path(__file__).parents[2]
_passed: set[tuple[str, int, int]] = set()  # path, size and time of change of slides that passed


@contextmanager
def sandboxed(path: Path) -> Iterator[None]:
    """Runs the trial reading of a slide while the body does something else.

    Raises RefusedError at the end of the body where the slide killed the child, and SlidesrError
    where the child did not run. A slide that has passed is not read again unless it changes.
    """
    stamp = _stamp(path)
    process = None if stamp in _passed or _needs_no_trial(path) else _start_child(path)
    try:
        yield
        if process is not None:
            _check_exit(path, process)
        if stamp is not None:
            _passed.add(stamp)
    finally:
        if process is not None:
            process.kill()
            process.wait()


def check_in_sandbox(path: Path) -> None:
    """Waits for the trial reading of a slide; errors as of `sandboxed`."""
    with sandboxed(path):
        pass


def main(path: Path) -> int:
    """The child: 0, or MEMORY_EXIT_CODE where reading took too much memory.

    Other errors exit with 0 as well: whoever opens the slide next reports them.
    """
    logging.disable()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, _CPU_SECONDS)
    _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    # Imported by name, and only now: the limits must hold before OpenSlide and the other readers
    # are loaded, and `runtime` lies below `slide` in the layers of imports.
    trial = importlib.import_module("slidesr.slide._trial")
    try:
        trial.read_samples(path)
    except MemoryError:
        return MEMORY_EXIT_CODE
    except Exception:
        return 0
    return 0


def _stamp(path: Path) -> tuple[str, int, int] | None:
    """The path, size and time of change; None for what cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (str(path.absolute()), status.st_size, status.st_mtime_ns)


def _needs_no_trial(path: Path) -> bool:
    """Whether only Pillow reads the file, or nothing can.

    MIRAX begins with a JPEG, and DICOM with 128 arbitrary bytes.
    """
    try:
        if not path.is_file():
            return not path.is_dir()  # a folder of any name may be a Zarr store
        with path.open("rb") as file:
            head = file.read(132)
    except (OSError, ValueError):
        return True
    is_slide = path.suffix.lower() == ".mrxs" or head[128:] == b"DICM"
    return head.startswith(_SAFE_SIGNATURES) and not is_slide


def _command(path: Path) -> list[str]:
    # -P: a numpy.py in the current folder must not be imported.
    return [sys.executable, "-P", "-m", "slidesr.runtime.sandbox", os.fspath(path)]


def _start_child(path: Path) -> subprocess.Popen[bytes]:
    search_path = filter(None, [str(_IMPORT_ROOT), os.environ.get("PYTHONPATH")])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(search_path),
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


def _check_exit(path: Path, process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait(_WALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _hostile(path, f"took over {_WALL_SECONDS} s") from error
    if code == -signal.SIGXCPU:
        raise _hostile(path, f"took over {_CPU_SECONDS} s")
    if code == MEMORY_EXIT_CODE:
        raise _hostile(path, f"took over {_MEMORY_BYTES >> 20} MiB")
    if code < 0:
        raise _hostile(path, f"ended in {signal.Signals(-code).name}")
    if code:
        raise SlidesrError(f"{path}: the trial reading did not run (exit code {code}).")


def _hostile(path: Path, what: str) -> RefusedError:
    return RefusedError(
        f"{path}: a trial reading {what}: the file is broken or hostile. Give a sound copy."
    )


def _limit(kind: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # not every system has every limit
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
