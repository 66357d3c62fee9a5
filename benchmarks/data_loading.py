"""Measures training patches per second by degradation, patch size and number of threads.

Stain and colour jitter are enabled, and a third of the low-resolution patches are compressed,
except with "levels". "Per core" counts CPU time and is therefore independent of the machine's load;
the columns per number of threads use wall time.

python benchmarks/data_loading.py [--scale 4] [--threads 1 2] [--rounds 7] [--patches 64]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from material import texture
from PIL import Image

from slidesr.geometry import Box
from slidesr.imaging.resample import bicubic_down
from slidesr.train.data import DataRecipe, PatchSampler

_BATCH = 8


@dataclass
class _Speeds:
    """Patches per second of each round, by wall time and by CPU time."""

    clock: list[float] = field(default_factory=list)
    core: list[float] = field(default_factory=list)

    def measure(self, sampler: PatchSampler, patches: int, threads: int) -> None:
        clock, core = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda first: sampler.draw(first, _BATCH), range(0, patches, _BATCH)))
        self.clock.append(patches / (time.perf_counter() - clock))
        self.core.append(patches / (time.process_time() - core))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patches", type=int, default=64, help="per round")
    choices = parser.parse_args()
    counts: list[int] = choices.threads
    clocks = "".join(f" {count} thr. |" for count in counts)
    ratios = "".join(f" {count}:{counts[0]} (min-max) |" for count in counts[1:])
    print(f"| degradation | px | per core |{clocks}{ratios}")
    print("|---" * (3 + len(counts) + len(counts[1:])) + "|")
    with tempfile.TemporaryDirectory() as parent:
        folder = _written(Path(parent), choices.scale)
        for degradation in ("bicubic", "scanner", "levels"):
            for patch_px in (128, 256):
                sampler = _sampler(folder, degradation, patch_px, choices.scale)
                speeds = _measured(sampler, counts, choices.rounds, choices.patches)
                print(f"| {degradation} | {patch_px} | {_row(speeds)} |", flush=True)


def _measured(
    sampler: PatchSampler, counts: list[int], rounds: int, patches: int
) -> dict[int, _Speeds]:
    sampler.draw(0, _BATCH)
    speeds = {count: _Speeds() for count in counts}
    for turn in range(rounds):
        for count in counts if turn % 2 else reversed(counts):
            speeds[count].measure(sampler, patches, count)
    return speeds


def _row(speeds: dict[int, _Speeds]) -> str:
    first, *others = speeds.values()
    cells = [f"{statistics.median(first.core):.0f}"]
    cells += [f"{statistics.median(each.clock):.0f}" for each in speeds.values()]
    for each in others:
        ratios = [fast / slow for fast, slow in zip(each.clock, first.clock, strict=True)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return " | ".join(cells)


def _sampler(folder: Path, degradation: str, patch_px: int, scale: int) -> PatchSampler:
    recipe = DataRecipe(
        patch_px=patch_px,
        stain_jitter=0.1,
        colour_jitter=0.05,
        degradation=degradation,
        jpeg_share=0.0 if degradation == "levels" else 0.33,
    )
    return PatchSampler(folder, recipe, scale=scale, seed=0)


def _written(parent: Path, scale: int) -> Path:
    """Writes a folder of two images of 1024 x 1024 px, and one with their coarser levels."""
    folder, levels = parent / "train", parent / f"train.x{scale}"
    folder.mkdir()
    levels.mkdir()
    for number in range(2):
        image = texture(Box(300 * number, 0, 1024, 1024))
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(bicubic_down(image, scale)).save(levels / f"{number}.png")
    return folder


if __name__ == "__main__":
    main()
