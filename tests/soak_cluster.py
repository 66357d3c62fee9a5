"""The part of the soak that hits a cluster: workers, nannies and drivers are killed or paused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DASK = (sys.executable, "-m", "dask")
_PAUSE_S = 1.0


class ByHand:
    """`dask scheduler` and two `dask worker`, each a nanny and its worker process."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        told = ["scheduler", "--port", "0", "--dashboard-address", ":0", "--scheduler-file"]
        self._scheduler = _started([*told, str(self._file)])
        while not self._file.exists():
            time.sleep(0.1)
        self._nannies = [self._nanny(), self._nanny()]
        self.hits: dict[str, Callable[[random.Random], None]] = {
            "worker killed": lambda rng: self._each(rng, signal.SIGKILL),
            "worker paused": self._pause,
            "nanny killed": self._kill_nanny,
        }

    def _nanny(self) -> subprocess.Popen[bytes]:
        told = ["worker", "--scheduler-file", str(self._file), "--nthreads", "1", "--no-dashboard"]
        folder = str(self._file.parent / "dask")
        return _started([*told, "--memory-limit", "0", "--local-directory", folder])

    @property
    def address(self) -> str:
        return str(json.loads(self._file.read_text())["address"])

    def _each(self, rng: random.Random, number: signal.Signals) -> None:
        workers = _children(rng.choice(self._nannies).pid)
        for pid in workers:
            os.kill(pid, number)

    def _pause(self, rng: random.Random) -> None:
        workers = _children(rng.choice(self._nannies).pid)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in workers:
                os.kill(pid, number)
            time.sleep(_PAUSE_S if number == signal.SIGSTOP else 0)

    def _kill_nanny(self, rng: random.Random) -> None:
        at = rng.randrange(len(self._nannies))
        _end(self._nannies[at], signal.SIGKILL)
        self._nannies[at] = self._nanny()

    def close(self) -> None:
        for process in (*self._nannies, self._scheduler):
            _end(process, signal.SIGTERM)


@contextmanager
def by_hand(folder: Path) -> Iterator[ByHand]:
    """A cluster for as long as it is needed."""
    cluster = ByHand(folder)
    try:
        yield cluster
    finally:
        cluster.close()


def _started(told: list[str]) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    return subprocess.Popen(
        [*_DASK, *told], env=environment, stdout=null, stderr=null, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Ends a process of ours and what it started."""
    os.killpg(process.pid, number)
    process.wait(30)


def _children(pid: int) -> list[int]:
    """The worker of a nanny: of its children the one that uses memory, not the resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in _command(int(child))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
