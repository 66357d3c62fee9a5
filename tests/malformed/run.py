"""Runs slidesr on a case in a process of its own, and judges how it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.models import tiny_generator

from malformed.cases import Case
from malformed.other_files import MARKER
from malformed.tiff_files import tiled
from slidesr.model.weights import save_model
from slidesr.runtime.closeable import Closeable

MOST_SECONDS, MOST_BYTES = 60.0, 2 << 30
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Verdict:
    """How a run ended; `exit_code` is negative for a signal, `peak_bytes` the largest process's."""

    exit_code: int
    seconds: float
    peak_bytes: int
    out: str
    err: str
    left: tuple[str, ...]
    executed: bool

    @property
    def problems(self) -> list[str]:
        """What must not be; empty for a clean end."""
        lines = self.err.splitlines()
        told = [line for line in lines if line.startswith("slidesr: ")]
        warned = [line for line in lines if line.startswith("warning: ")]
        failed = self.exit_code in (1, 2)
        found = {
            f"exit code {self.exit_code}": self.exit_code not in (0, 1, 2, 3),
            f"{self.seconds:.0f} s": self.seconds >= MOST_SECONDS,
            f"{self.peak_bytes >> 20} MiB": self.peak_bytes >= MOST_BYTES,
            "a traceback": "Traceback" in self.err + self.out,
            "a fault of ours": "a bug in slidesr" in self.err,
            f"{len(told)} lines": failed and len(told) != 1,
            "more lines": failed and len(told) + len(warned) != len(lines),
            "control characters": not (self.out + self.err).replace("\n", "").isprintable(),
            f"left {self.left}": failed and bool(self.left),
            "code was executed": self.executed,
        }
        return [problem for problem, is_so in found.items() if is_so]


class Runner(Closeable):
    """Forks a run from a process that has imported slidesr already: a tenth of a second each.

    `how` is "auto" or "all" for `upscale --tissue`, or "info".
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "slide.tif").write_bytes(tiled())
        save_model(folder / "tiny.safetensors", *tiny_generator(scale=4))
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from malformed.run import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": f"{_TESTS}{os.pathsep}{_TESTS.parent}"},
            text=True,
        )

    def __call__(self, case: Case, how: str = "auto") -> Verdict:
        work = self._folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        (work / "out").mkdir(parents=True)
        job = {"arguments": self._arguments(case, how), "work": str(work)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(job), file=self._server.stdin, flush=True)
        told: dict[str, Any] = json.loads(self._server.stdout.readline())
        out, err = (
            (work / name).read_bytes().decode("utf-8", "replace") for name in ("stdout", "stderr")
        )
        left = tuple(sorted(path.name for path in (work / "out").iterdir()))
        executed = any(folder.exists() for folder in (case.path.parent / MARKER, work / MARKER))
        return Verdict(told["code"], told["seconds"], told["peak_bytes"], out, err, left, executed)

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(10)

    def _arguments(self, case: Case, how: str) -> list[str]:
        if how == "info":
            return ["info", "--", str(case.path)]
        chosen = {"INPUT": str(self._folder / "slide.tif"), "--tissue": how}
        chosen |= {"--model": str(self._folder / "tiny.safetensors"), case.option: str(case.path)}
        source = chosen.pop("INPUT")
        options = [word for pair in chosen.items() for word in pair]
        output = str(self._folder / "work/out/out.ome.tif")
        return ["upscale", *options, "--device", "cpu", "-o", output, "--", source]


def serve() -> None:
    """Reads jobs from stdin, one a line, and tells how each ended."""
    import torch

    import slidesr.cli
    import slidesr.pipeline

    assert slidesr.pipeline
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if not child:
            _become(job["arguments"], Path(job["work"]), slidesr.cli.main)
        status, peak = _waited(child, started + MOST_SECONDS)
        seconds = time.monotonic() - started
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "seconds": seconds, "peak_bytes": peak}), flush=True)  # noqa: T201


def _become(arguments: list[str], work: Path, main: Any) -> None:
    """The forked child: slidesr with these arguments, to the end."""
    os.setpgid(0, 0)
    os.chdir(work)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["slidesr", *arguments]
    code: Any = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _waited(child: int, until: float) -> tuple[int, int]:
    """Its status, and the most memory of it or of what it started; killed when time is up."""
    while time.monotonic() < until:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return status, used.ru_maxrss * 1024
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    return status, used.ru_maxrss * 1024
