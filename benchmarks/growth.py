"""Measures how time per megapixel and peak host memory scale with the size of the slide.

Each size runs in a separate process, in ascending and then in descending order; by default the
tissue grows with the slide. Seconds count from the first read to the published file; start-up,
which does not depend on the size, is listed separately. `network` is the network's share of the
run; the remainder is pipeline time that was not overlapped with it.

python benchmarks/growth.py [SIDE:TISSUE ...] [--rounds 2]     side lengths in source px
python benchmarks/growth.py 10000:1024 40000:1024 100000:1024  growth of the glass only
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import parser, record
from material import write_slide
from rounds import markdown

_AREAS = [
    "1024:512",
    "2048:1024",
    "4096:2048",
    "8192:4096",
]  # areas of 1, 4, 16 and 64 times the first


@dataclass(frozen=True)
class Grown:
    """A run of the command on one slide; `load` is the load average at its start."""

    slide: str
    tissue_mpx: float
    seconds: float
    start_up_s: float
    network_share: float
    peak_mib: float
    load: float

    @property
    def s_per_mpx(self) -> float:
        return self.seconds / self.tissue_mpx


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("slides", nargs="*", default=_AREAS, metavar="SIDE:TISSUE")
    arguments.add_argument("--rounds", type=int, default=2)
    choices = arguments.parse_args()
    runs: list[Grown] = []
    with tempfile.TemporaryDirectory() as folder:
        slides = {size: _slide(Path(folder), size) for size in choices.slides}
        for turn in range(choices.rounds):
            for size in choices.slides[:: -1 if turn % 2 else 1]:
                runs.append(_upscaled(size, slides[size], choices))
    print(table(runs))
    record("growth", [asdict(run) for run in runs], choices)


def table(runs: list[Grown]) -> str:
    """Tabulates the fastest run and the peak memory of each size, relative to the first size."""
    sizes = list(dict.fromkeys(run.slide for run in runs))
    best = {size: min(_of(runs, size), key=lambda run: run.seconds) for size in sizes}
    peak = {size: max(run.peak_mib for run in _of(runs, size)) for size in sizes}
    first = best[sizes[0]]
    header = [
        *("slide:tissue, px", "tissue, Mpx", "start-up, s", "run, s", "s per Mpx"),
        *("relative to first", "network", "peak memory, MiB", "relative to first"),
    ]
    rows = [
        [
            size,
            f"{best[size].tissue_mpx:.2f}",
            f"{best[size].start_up_s:.1f}",
            f"{best[size].seconds:.1f}",
            f"{best[size].s_per_mpx:.2f}",
            f"{best[size].s_per_mpx / first.s_per_mpx:.2f}",
            f"{best[size].network_share:.0%}",
            f"{peak[size]:.0f}",
            f"{peak[size] / peak[sizes[0]]:.2f}",
        ]
        for size in sizes
    ]
    return markdown(header, rows)


def _of(runs: list[Grown], size: str) -> list[Grown]:
    return [run for run in runs if run.slide == size]


def _slide(folder: Path, size: str) -> Path:
    side, _, tissue = size.partition(":")
    return write_slide(folder / f"{side}-{tissue}.tif", int(side), int(tissue))


def _upscaled(size: str, slide: Path, choices: argparse.Namespace) -> Grown:
    """Runs the command in a spawned child; a forked one would inherit its parent's peak memory."""
    output, log = slide.with_suffix(".ome.tif"), slide.with_suffix(".json")
    words = ["-m", "slidesr", "upscale", str(slide), "-o", str(output), "--overwrite", "--json"]
    words += ["--device", choices.device]
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, to, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    load, started = os.getloadavg()[0], time.monotonic()
    child = os.posix_spawn(
        sys.executable, [sys.executable, *words], os.environ, file_actions=actions
    )
    _, status, usage = os.wait4(child, 0)
    whole_s = time.monotonic() - started
    os.close(to)
    os.close(null)
    if status:
        raise SystemExit(f"slidesr upscale failed on a slide of {size}")
    output.unlink()
    summary = json.loads(log.read_text())
    seconds = summary["seconds"]
    return Grown(
        size,
        summary["tissue_px"] / 1e6,
        seconds,
        whole_s - seconds,
        summary["stage_s"]["network"] / seconds,
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024),
        load,
    )


if __name__ == "__main__":
    main()
