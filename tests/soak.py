"""The long reliability plan: kills, full disks, failing writes, odd input; prints figures.

python tests/soak.py [--only kills,disks,cluster,...] [--jobs 200] [--signals 300]

Every run is the command itself, in a child process. The children are forked from this process,
which has loaded slidesr and computed nothing yet, so that a run starts in a moment.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from malformed import Runner, make_cases
from soak_cluster import by_hand
from support.files import content
from support.models import tiny_generator
from support.slides import camelyon_style, tissue

import slidesr.pipeline.batch  # noqa: F401 - loaded before the forks
from slidesr.cli import main as command
from slidesr.model.weights import save_model
from slidesr.output.checkpoint import CheckpointTimer
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.zarr.writer import OmeZarrWriter

_WRITERS = (OmeTiffWriter, OmeZarrWriter)
_PAUSE_S = 0.2  # between checkpoints here: runs of a second must have some
_VARIANTS: tuple[tuple[str, ...], ...] = (
    ("out.ome.tif",),
    ("out.ome.tif", "--compression", "lzw", "--layout", "ome"),
    ("out.tif", "--layout", "generic", "--compression", "jpeg-rgb"),
    ("out.ome.tif", "--num-workers", "4", "--tissue", "auto"),
    ("out.ome.zarr",),
    ("out.ome.zarr", "--ngff-version", "0.5", "--num-workers", "4"),
)


@dataclass(frozen=True)
class Run:
    """How a child ended: its exit code, or minus the signal; what it said."""

    code: int
    said: str
    seconds: float


class Soak:
    """A slide, tiny weights, and what undisturbed runs of every variant give."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)  # noqa: S311
        self.slide, self.model = folder / "slide.tif", folder / "tiny.safetensors"
        image = tissue(760, 510, seed=5)
        image[:250, 500:] = 240
        camelyon_style(self.slide, image, mpp=0.5)
        save_model(self.model, *tiny_generator(scale=4))
        self.whole: dict[tuple[str, ...], dict[str, bytes]] = {}
        self.seconds: dict[tuple[str, ...], float] = {}
        for variant in _VARIANTS:
            with self.place() as place:
                run = wait(self.start(place, variant))
                assert run.code == 0, run.said
                self.whole[variant] = content(place / variant[0])
                self.seconds[variant] = run.seconds

    @contextmanager
    def place(self) -> Iterator[Path]:
        """An empty folder for outputs."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            yield Path(name)

    def start(
        self, place: Path, variant: tuple[str, ...], before: Callable[[], None] | None = None
    ) -> Child:
        """The command in a child; `before` prepares the child for trouble."""
        output, *options = variant
        told = ["upscale", str(self.slide), "-o", str(place / output), "--model", str(self.model)]
        told += ["--device", "cpu", "--precision", "fp32"]
        return fork(
            [*told, *([] if "--tissue" in options else ["--tissue", "all"]), *options], before
        )

    def is_whole(self, place: Path, variant: tuple[str, ...]) -> bool:
        """Whether the output is there; anything but the right bytes is the end of the soak."""
        output = place / variant[0]
        if not output.exists():
            return False
        if content(output) != self.whole[variant]:
            raise SystemExit(f"DIFFERENT BYTES: {variant}")
        return True


@dataclass(frozen=True)
class Child:
    pid: int
    said: Path
    started: float


def fork(arguments: list[str], before: Callable[[], None] | None = None) -> Child:
    """`slidesr` with these arguments in a child process."""
    handle, name = tempfile.mkstemp()
    pid = os.fork()
    if pid == 0:
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.argv = ["slidesr", *arguments]
        code = 70
        try:
            CheckpointTimer._MIN_S = _PAUSE_S
            if before:
                before()
            command()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(handle)
    return Child(pid, Path(name), time.monotonic())


def wait(child: Child, limit_s: float = 120) -> Run:
    """Waits for the end of a child; one that hangs is the end of the soak."""
    while True:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        seconds = time.monotonic() - child.started
        if pid:
            said = child.said.read_text(errors="replace")
            child.said.unlink()
            return Run(os.waitstatus_to_exitcode(status), said, seconds)
        if seconds > limit_s:
            os.kill(child.pid, signal.SIGKILL)
            raise SystemExit(f"HANGS: {child.said.read_text()}")
        time.sleep(0.002)


# What is tried


def kills(soak: Soak, jobs: int, signals: int) -> dict[str, Any]:
    """Jobs hit by random signals at random moments until they are done."""
    sent: Counter[str] = Counter()
    slowest_end_s, most_again_s = 0.0, 0.0
    job = 0
    while job < jobs or sum(sent.values()) < signals:
        variant = _VARIANTS[job % len(_VARIANTS)]
        wanted, job = soak.rng.choice([1, 2, 3]), job + 1
        with soak.place() as place:
            lives = Lives(soak, place, variant)
            while wanted and not soak.is_whole(place, variant):
                number = soak.rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                ended = lives.hit(number, soak.rng.uniform(0.05, 1.0) * soak.seconds[variant])
                if ended is None:
                    break
                wanted, sent[number.name] = wanted - 1, sent[number.name] + 1
                slowest_end_s = max(slowest_end_s, ended)
            lives.finish()
            most_again_s = max(most_again_s, lives.again_s)
            left = [path.name for path in place.iterdir() if path.name != variant[0]]
            assert not left, left
    return {
        "jobs": job,
        "signals": sum(sent.values()),
        **sent,
        "identical": job,
        "slowest end after a signal, s": round(slowest_end_s, 2),
        f"most work done again, s (checkpoints every {_PAUSE_S} s)": round(most_again_s, 2),
    }


class Lives:
    """The runs of one job, which note when each block was stored."""

    def __init__(self, soak: Soak, place: Path, variant: tuple[str, ...]) -> None:
        self._soak, self._place, self._variant = soak, place, variant
        self._notes = soak.folder / "notes"
        self._notes.unlink(missing_ok=True)
        self._stored: dict[int, float] = {}
        self.again_s = 0.0

    def hit(self, number: signal.Signals, after_s: float) -> float | None:
        """A run that is hit by a signal: how long its end takes, or None if it was over before."""
        child = self._soak.start(self._place, self._variant, self._note_blocks)
        until = child.started + after_s
        while time.monotonic() < until:
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                run = wait(child)
                assert run.code == 0, run.said
                return None
            time.sleep(0.002)
        os.kill(child.pid, number)
        hit = time.monotonic()
        run = wait(child)
        assert run.code in (-number, 128 + number, 0), run
        assert "Traceback" not in run.said, run.said
        self._count_again()
        return time.monotonic() - hit

    def finish(self) -> None:
        """A run that nothing disturbs; where the output is there, it only tidies up."""
        is_there = self._soak.is_whole(self._place, self._variant)
        run = wait(self._soak.start(self._place, self._variant, self._note_blocks))
        assert run.code == (2 if is_there else 0), run.said
        assert self._soak.is_whole(self._place, self._variant), run.said
        self._count_again()

    def _note_blocks(self) -> None:
        """In the child: each block's number and moment go to a file before it is settled."""
        notes = self._notes
        for writer in _WRITERS:
            settle = writer.settle

            def noting(self: Any, blocks: int, settle: Any = settle) -> None:
                with notes.open("a") as file:
                    file.write(f"{blocks} {time.monotonic()}\n")
                settle(self, blocks)

            setattr(writer, "settle", noting)  # noqa: B010 - a class of theirs, in a child of ours

    def _count_again(self) -> None:
        """What a life did again: from the first of the blocks that an earlier one had stored."""
        if not self._notes.exists():
            return
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        now = {int(blocks): float(moment) for blocks, moment in lines if moment}
        self._notes.unlink()
        again = [self._stored[blocks] for blocks in now if blocks in self._stored]
        if again:
            self.again_s = max(self.again_s, max(self._stored.values()) - min(again))
        self._stored |= now


def disks(soak: Soak, sizes: int = 20) -> dict[str, Any]:
    """Disks of growing size, each too small; then the disk grows."""
    place = soak.folder / "disk"
    place.mkdir()
    codes: Counter[int] = Counter()
    for number in range(sizes):
        variant = _VARIANTS[0] if number % 3 else _VARIANTS[-1]
        whole = sum(map(len, soak.whole[variant].values()))
        kilobytes = int(whole / 1000 * (number + 0.5) / sizes)
        mount("-t", "tmpfs", "-o", f"size={max(4, kilobytes)}k", "tmpfs", str(place))
        try:
            run = wait(soak.start(place, variant))
            codes[run.code] += 1
            assert run.code in (1, 2), run
            assert one_line(run.said), run.said
            assert not (place / variant[0]).exists()
            mount("-o", "remount,size=64m", str(place))
            assert wait(soak.start(place, variant)).code == 0
            assert soak.is_whole(place, variant)
            assert [path.name for path in place.iterdir()] == [variant[0]]
        finally:
            subprocess.run(["umount", str(place)], check=True)
    place.rmdir()
    return {"sizes": sizes, "refused at once": codes[2], "stopped, gone on": codes[1]}


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def writes(soak: Soak, errors: int = 50) -> dict[str, Any]:
    """Writes and syncs that fail at random moments: with an I/O error, or at a size."""
    kinds: Counter[str] = Counter()
    for _ in range(errors):
        variant = soak.rng.choice(_VARIANTS)
        kind = soak.rng.choice(["sync", "size"])
        with soak.place() as place:
            whole = sum(map(len, soak.whole[variant].values()))
            size = int(soak.rng.random() * whole * 0.999)
            nth = soak.rng.randrange(8)
            trouble = {"sync": lambda nth=nth: fail_sync(nth), "size": lambda n=size: cap_size(n)}
            run = wait(soak.start(place, variant, trouble[kind]))
            kinds[kind] += 1
            if run.code:
                assert run.code == 1, run
                assert one_line(run.said), run.said
            is_there = soak.is_whole(place, variant)
            run = wait(soak.start(place, variant))
            assert run.code == (2 if is_there else 0), run.said
            assert soak.is_whole(place, variant)
            assert [path.name for path in place.iterdir()] == [variant[0]]
    return {"errors": errors, **kinds, "identical after": errors}


def fail_sync(nth: int) -> None:
    calls = 0

    def failing(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    setattr(os, "fsync", failing)  # noqa: B010


def cap_size(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def one_line(said: str) -> bool:
    """One line of error, beside the progress bar's own."""
    lines = [line for line in said.splitlines() if "slidesr:" in line]
    return len(lines) == 1 and "Traceback" not in said


def surroundings(soak: Soak) -> dict[str, Any]:
    """Workers, time zones, locales and umasks change no byte."""
    variant, runs = _VARIANTS[0], 0
    for workers in ("1", "2", "4"):
        for zone, language, mask in (("Asia/Tokyo", "C", 0o077), ("UTC", "de_DE.UTF-8", 0o002)):

            def other(zone: str = zone, language: str = language, mask: int = mask) -> None:
                os.environ |= {"TZ": zone, "LC_ALL": language}
                time.tzset()
                os.umask(mask)

            with soak.place() as place:
                run = wait(soak.start(place, (*variant, "--num-workers", workers), other))
                assert run.code == 0, run.said
                assert content(place / variant[0]) == soak.whole[variant]
                runs += 1
    return {"runs": runs, "identical": runs}


def malformed(soak: Soak) -> dict[str, Any]:
    """Every malformed file there is, with and without looking for tissue, in `info` too."""
    worst_s, most_bytes, codes = 0.0, 0, Counter[int]()
    with soak.place() as place, Runner(place / "run") as run:
        cases = list(make_cases(place / "cases"))
        for number, case in enumerate(cases):
            verdict = run(case, ("auto", "all", "info")[number % 3])
            if verdict.problems:
                raise SystemExit(f"{case.name}: {verdict.problems}")
            worst_s = max(worst_s, verdict.seconds)
            most_bytes = max(most_bytes, verdict.peak_bytes)
            codes[verdict.exit_code] += 1
    return {
        "inputs": len(cases),
        "refused": codes[2],
        "failed in one line": codes[1],
        "harmless": codes[0] + codes[3],
        "slowest, s": round(worst_s, 1),
        "most memory, MiB": most_bytes >> 20,
    }


def privacy(soak: Soak) -> dict[str, Any]:
    """The planted strings, by the suite's own test."""
    return by_pytest("pipeline/test_privacy.py")


def properties(soak: Soak, examples: int = 2000) -> dict[str, Any]:
    """TIFFs and Zarr stores of random kinds, by the suite's own tests; Bio-Formats reads some."""
    tests = ("slide/test_tiff_properties.py", "slide/test_zarr_properties.py")
    return {"examples of each": examples, **by_pytest(*tests, SLIDESR_EXAMPLES=str(examples))}


def by_pytest(*files: str, **environment: str) -> dict[str, Any]:
    told = [sys.executable, "-m", "pytest", "-q", *(str(Path(__file__).parent / f) for f in files)]
    done = subprocess.run(told, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(done.stdout)
    return {"tests": done.stdout.strip().splitlines()[-1]}


def cluster(soak: Soak, hits: int = 30) -> dict[str, Any]:
    """Jobs on a cluster whose workers, nannies and drivers are killed or paused at random."""
    done: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    slowest_s, jobs = 0.0, 0
    with by_hand(soak.folder) as some:
        while sum(done.values()) < hits:
            variant, jobs = soak.rng.choice(_VARIANTS), jobs + 1
            with soak.place() as place:
                while not soak.is_whole(place, variant):
                    child = soak.start(place, (*variant, "--dask", some.address))
                    time.sleep(soak.rng.uniform(0.5, 3))
                    what = soak.rng.choice([*some.hits, "driver killed"])
                    done[what] += 1
                    if what in some.hits:
                        some.hits[what](soak.rng)
                    else:
                        os.kill(child.pid, signal.SIGKILL)
                    run = wait(child, 180)
                    assert run.code in (0, 1, -signal.SIGKILL), run
                    assert "Traceback" not in run.said, run.said
                    codes[run.code] += 1
                    slowest_s = max(slowest_s, run.seconds)
                left = [path.name for path in place.iterdir() if path.name != variant[0]]
                assert not left, left
    ends = {"undisturbed in the end": codes[0], "stopped in one line": codes[1]}
    return {"jobs": jobs, "identical": jobs, **done, **ends, "slowest run, s": round(slowest_s)}


def journal_cost(soak: Soak) -> dict[str, Any]:
    """The share of a real run's time that its checkpoints take."""
    with soak.place() as place:
        told = [sys.executable, "-m", "slidesr", "upscale", str(soak.slide), "--json", "-o"]
        told += [str(place / "out.ome.tif"), "--model", "wa-srgan-x4-fidelity", "--tissue", "all"]
        done = subprocess.run(told, check=True, capture_output=True)
    summary = json.loads(done.stdout)
    share = summary["stage_s"]["checkpoint"] / summary["seconds"]
    return {"run, s": round(summary["seconds"], 1), "checkpoints": f"{share:.2%}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        default="kills,disks,writes,surroundings,journal,malformed,privacy,properties,cluster",
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--signals", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    choices = parser.parse_args()
    torch.set_num_threads(1)  # the network is tiny
    folder = Path(tempfile.mkdtemp())
    try:
        soak = Soak(folder, choices.seed)
        plan: dict[str, Callable[[], dict[str, Any]]] = {
            "kills": lambda: kills(soak, choices.jobs, choices.signals),
            "disks": lambda: disks(soak),
            "writes": lambda: writes(soak),
            "surroundings": lambda: surroundings(soak),
            "journal": lambda: journal_cost(soak),
            "malformed": lambda: malformed(soak),
            "privacy": lambda: privacy(soak),
            "properties": lambda: properties(soak),
            "cluster": lambda: cluster(soak),
        }
        for name in choices.only.split(","):
            started = time.monotonic()
            figures = plan[name]()
            told = ", ".join(f"{key}: {value}" for key, value in figures.items())
            print(f"{name} ({time.monotonic() - started:.0f} s): {told}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
