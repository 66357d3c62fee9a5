"""Peak memory and time of `slidesr upscale` on slides of growing size and equal tissue.

python benchmarks/memory.py [--sides 10000 40000 100000] [--tissue 1024]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from material import write_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 40_000, 100_000])
    parser.add_argument("--tissue", type=int, default=1024)
    choices = parser.parse_args()
    print("| slide | seconds | peak memory (MiB) | against the first | output (MB) |")
    print("|---|---|---|---|---|")
    first = 0.0
    for side in choices.sides:
        with tempfile.TemporaryDirectory() as folder:
            slide = write_slide(Path(folder) / "slide.tif", side, choices.tissue)
            output = Path(folder) / "out.ome.tif"
            seconds, peak_mib = _upscale(slide, output)
            first = first or peak_mib
            size_mb = output.stat().st_size / 1e6
        row = f"{side}^2 | {seconds:.0f} | {peak_mib:.0f} | {peak_mib / first:.3f} | {size_mb:.1f}"
        print(f"| {row} |", flush=True)


def _upscale(slide: Path, output: Path) -> tuple[float, float]:
    """Seconds, and the child's own peak resident memory in MiB."""
    started = time.monotonic()
    arguments = [
        sys.executable,
        "-m",
        "slidesr",
        "upscale",
        str(slide),
        "-o",
        str(output),
        "--json",
    ]
    null = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    child = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"slidesr upscale failed on {slide}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
