"""Measures the time from the command to its first block in fresh processes, in total and by stage.

The total is observed from outside: the first block makes the output's hidden part file much larger
than its directories. The stages are timed in a script with the same calls; the command additionally
tests the slide in a child process. On a CPU a block is one tile.

python benchmarks/startup.py [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import parser, record
from material import write_slide
from rounds import markdown

_SIDE_PX = 2048  # all tissue, so that the first block is tissue
_BLOCK_BYTES = 50_000  # the directories take about 10 kB, the JPEG of a block 200 kB
_LIMIT_S = 120
_WATCH_S = 0.002

_STAGES = """
import json, sys, time
begun, slide, output, device = float(sys.argv[1]), *sys.argv[2:]
seconds = {}
def stop(stage):
    seconds[stage] = time.monotonic() - begun
from pathlib import Path
from slidesr.pipeline.prepare import open_model, prepared
from slidesr.pipeline.options import Options
from slidesr.pipeline.run import upscale
stop("imports")
options = Options(device=device)
model = open_model(options)
stop("weights")
class FirstBlock(Exception): pass
def report(progress):
    if progress.tissue_px:
        stop("first block")
        raise FirstBlock
with prepared(Path(slide), Path(output), options, model) as job:
    stop("slide and tissue")
    try:
        upscale(job, report)
    except FirstBlock:
        print(json.dumps(seconds))
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=5)
    choices = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slide = write_slide(Path(folder) / "slide.tif", _SIDE_PX, _SIDE_PX)
        runs = []
        for turn in range(choices.runs):  # unique names: a stopped run would be resumed
            load = os.getloadavg()[0]
            watched = _watched(slide, Path(folder) / f"{turn}-watched.ome.tif", choices)
            staged = _staged(slide, Path(folder) / f"{turn}-staged.ome.tif", choices)
            runs.append({"command": watched, "load": load, **staged})
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    rows = [[name, f"{seconds:.2f}"] for name, seconds in middle.items() if name != "load"]
    print(markdown(["", f"seconds, median of {choices.runs}"], rows))
    record("startup", {"median": middle, "runs": runs}, choices)


def _watched(slide: Path, output: Path, choices: argparse.Namespace) -> float:
    """Seconds from the command to its first block in the part file; then the command is killed."""
    words = [sys.executable, "-m", "slidesr", "upscale", str(slide), "-o", str(output), "--json"]
    begun = time.monotonic()
    child = subprocess.Popen(
        [*words, "--device", choices.device],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return _first_block(output.with_name(f".{output.name}.part"), child) - begun
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def _first_block(part: Path, child: subprocess.Popen[bytes]) -> float:
    """Returns the time at which the part file first contained a block."""
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(f"slidesr upscale ended early, with exit code {child.returncode}")
        if part.exists() and part.stat().st_size > _BLOCK_BYTES:
            return time.monotonic()
        time.sleep(_WATCH_S)
    raise SystemExit(f"no block was written within {_LIMIT_S} s")


def _staged(slide: Path, output: Path, choices: argparse.Namespace) -> dict[str, float]:
    """Seconds from the start of the process to the end of each stage."""
    words = [sys.executable, "-c", _STAGES, str(time.monotonic())]
    finished = subprocess.run(
        [*words, str(slide), str(output), choices.device], check=True, capture_output=True
    )
    ends = json.loads(finished.stdout)
    return {f"to the end of: {stage}": seconds for stage, seconds in ends.items()}


if __name__ == "__main__":
    main()
