"""A manually started dask cluster: `dask scheduler` and one `dask worker` per core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DASK = (sys.executable, "-m", "dask")
# As recommended in docs/scaling.md: one heap for all threads, which reuses freed memory.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


@contextmanager
def hand_started(folder: Path, workers: int) -> Iterator[str]:
    """Yields the address of a scheduler with single-threaded workers, each pinned to a core."""
    file = folder / "scheduler.json"
    arguments = [
        "scheduler",
        "--port",
        "0",
        "--dashboard-address",
        ":0",
        "--scheduler-file",
        str(file),
    ]
    processes = [_started(arguments)]
    try:
        while not file.exists():
            time.sleep(0.1)
        for number in range(workers):
            arguments = [
                "worker",
                "--scheduler-file",
                str(file),
                "--nthreads",
                "1",
                "--no-dashboard",
            ]
            arguments += ["--memory-limit", "0", "--local-directory", str(folder / "dask")]
            processes.append(_started(arguments, core=number % len(os.sched_getaffinity(0))))
        yield _address(file)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)
        file.unlink(missing_ok=True)


def _started(arguments: list[str], core: int | None = None) -> subprocess.Popen[bytes]:
    pinned = [] if core is None else ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[core])]
    null = subprocess.DEVNULL
    environment = os.environ | _ENVIRONMENT
    return subprocess.Popen(
        [*pinned, *_DASK, *arguments], env=environment, stdout=null, stderr=null
    )


def _address(file: Path) -> str:
    import json

    return str(json.loads(file.read_text())["address"])
