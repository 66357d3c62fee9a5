"""Measures the loss of accuracy with bf16: its output against fp32, and both against the original.

Tiles are downsampled bicubically and upscaled at both precisions. Requirements: at least 55 dB
between the two, no pixel off by more than 3 grey levels, PSNR to the original within 0.02 dB.

python benchmarks/precision.py [FOLDER] [--tiles 48]     without FOLDER: scikit-image's colon
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from machine import parser, record
from material import texture
from rounds import markdown

from slidesr.geometry import Box, Pixels
from slidesr.imaging.metrics import psnr_db
from slidesr.imaging.resample import bicubic_down
from slidesr.model.device import Engine
from slidesr.model.model import load_model
from slidesr.model.weights import default_model
from slidesr.slide.image_files import image_paths, read_rgb

_SCALE, _SIDE_PX = 4, 256


@dataclass(frozen=True)
class Cost:
    """Mean and minimum PSNR of bf16 to fp32, largest difference, and PSNR to the original.

    `changed` is the share of values that differ.
    """

    model: str
    psnr_db: float
    least_psnr_db: float
    largest: int
    changed: float
    fp32_db: float
    bf16_db: float


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path, nargs="?")
    arguments.add_argument("--tiles", type=int, default=48)
    choices = arguments.parse_args()
    tiles = list(_tiles(choices))
    name = default_model(_SCALE)
    costs = [_cost(each, tiles, choices.device) for each in (name, f"{name}-fidelity")]
    print(f"{len(tiles)} tiles, x{_SCALE}, {choices.device}\n")
    header = [
        *("model", "bf16 to fp32, dB (least)", "largest difference", "values changed"),
        *("fp32 to truth, dB", "bf16 to truth, dB", "lost, dB"),
    ]
    rows = [
        [
            cost.model,
            f"{cost.psnr_db:.1f} ({cost.least_psnr_db:.1f})",
            cost.largest,
            f"{cost.changed:.1%}",
            f"{cost.fp32_db:.4f}",
            f"{cost.bf16_db:.4f}",
            f"{cost.fp32_db - cost.bf16_db:.4f}",
        ]
        for cost in costs
    ]
    print(markdown(header, rows))
    found = "real tiles" if choices.folder else "scikit-image's colon"
    content = {"tiles": len(tiles), "of": found, "models": [asdict(cost) for cost in costs]}
    record("precision", content, choices)


def _tiles(choices: argparse.Namespace) -> Iterator[Pixels]:
    """Yields high-resolution tiles, evenly spaced over the folder, of whole windows."""
    if choices.folder is None:
        for index in range(min(choices.tiles, 16)):
            y, x = divmod(index, 4)
            yield texture(Box(x * _SIDE_PX, y * _SIDE_PX, _SIDE_PX, _SIDE_PX))
        return
    paths = image_paths(choices.folder)
    count = min(choices.tiles, len(paths))
    for index in range(count):
        yield read_rgb(paths[len(paths) * index // count])[:_SIDE_PX, :_SIDE_PX]


def _cost(name: str, tiles: list[Pixels], device: str) -> Cost:
    exact, fast = (load_model(name, Engine.choose(device, kind)) for kind in ("fp32", "bf16"))
    low = [bicubic_down(tile, _SCALE) for tile in tiles]
    ours = [fast.enlarge(image) for image in low]
    theirs = [exact.enlarge(image) for image in low]
    apart = [psnr_db(a, b) for a, b in zip(ours, theirs, strict=True)]
    off = [np.abs(a.astype(np.int16) - b) for a, b in zip(ours, theirs, strict=True)]
    return Cost(
        name,
        mean(apart),
        min(apart),
        max(int(each.max()) for each in off),
        mean(float((each > 0).mean()) for each in off),
        mean(psnr_db(a, b) for a, b in zip(theirs, tiles, strict=True)),
        mean(psnr_db(a, b) for a, b in zip(ours, tiles, strict=True)),
    )


if __name__ == "__main__":
    main()
