"""Measures the network's speed by tile size, relative to the machine's convolution ceiling.

Rates count the pixels of the tile without its halo, and the share of the ceiling the arithmetic of
the paper for these pixels, so that the halo counts as overhead. Each round measures the ceiling.

python benchmarks/tiles.py [SIDE ...] [--rounds 5]     side lengths in source px
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
from machine import parser, record
from material import texture
from rounds import Ratio, alternating, markdown

from slidesr.geometry import Box
from slidesr.model.model import Model
from slidesr.nets.cost import convolution_ceiling, flops_per_px
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import open_model

_SIDES_PX = [256, 512, 1024]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("sides", nargs="*", type=int, default=_SIDES_PX, metavar="SIDE")
    arguments.add_argument("--rounds", type=int, default=5)
    choices = arguments.parse_args()
    model = open_model(Options(tolerance=None, device=choices.device))
    engine, flops = model.engine, flops_per_px(model.spec.generator)
    work = {side: _upscaling(model, side) for side in choices.sides}
    for run in work.values():
        run()  # warm-up: kernels and memory
    rates: dict[int, list[float]] = {side: [] for side in work}
    ceilings: list[float] = []
    for each in alternating(
        {str(side): work[side] for side in work}, choices.rounds, engine.device
    ):
        ceilings.append(convolution_ceiling(engine.device, engine.precision))
        for side in work:
            rates[side].append(model.batch_size * side**2 / each.runs[str(side)].seconds)
    rows = {
        side: (max(of), Ratio.of([flops * x for x in of], ceilings)) for side, of in rates.items()
    }
    lines = [[side, f"{rate / 1e6:.3f}", share] for side, (rate, share) in rows.items()]
    print(markdown(["tile, px", "Mpx/s", "share of the ceiling"], lines))
    content = {
        str(side): {"px_s": rate, "share": asdict(share)} for side, (rate, share) in rows.items()
    }
    record("tiles", content, choices)


def _upscaling(model: Model, side_px: int) -> Callable[[], object]:
    tile = texture(Box(0, 0, side_px, side_px).grown(model.halo_px))
    tiles: npt.NDArray[np.uint8] = np.stack([tile] * model.batch_size)
    return lambda: model.upscale(tiles)


if __name__ == "__main__":
    main()
