"""Measures whether attention windows are visible: gradient energy at window borders.

The same place is upscaled twice, once with window borders in it and once with the windows shifted
by half their side, so that the content is identical. A ratio of 1.00 means no visible borders; for
one region of 384 px it scatters by 1 to 2%, so measure several.

python benchmarks/window_borders.py SLIDE [--crop x,y,w,h ...] [--model NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from slidesr.geometry import Box, Pixels
from slidesr.model.device import Engine
from slidesr.model.model import Upscaler, load_model
from slidesr.model.weights import default_model
from slidesr.slide import open_slide


def border_ratio(upscaler: Upscaler, read: Callable[[Box], Pixels], region: Box) -> float:
    """Ratio of the mean squared step across window borders to that at the same places without.

    `region` has the size of whole windows, in source pixels, and is offset by half a window like
    all tiles; `read` must also supply its halo and half a window more. The borders of both grids
    are measured, each with the other output as its reference.
    """
    half, window = upscaler.window_px // 2, upscaler.window_px
    wider = Box(region.x - half, region.y - half, region.width + window, region.height + window)
    in_place, moved = (
        upscaler.upscale(read(tile.grown(upscaler.halo_px))[None])[0] for tile in (region, wider)
    )
    moved = moved[(region.within(wider) * upscaler.scale).slices]
    step_px, half_px = window * upscaler.scale, half * upscaler.scale
    on_border = _energy(in_place, half_px, step_px) + _energy(moved, step_px, step_px)
    inside = _energy(moved, half_px, step_px) + _energy(in_place, step_px, step_px)
    return on_border / inside


def _energy(image: Pixels, first_px: int, every_px: int) -> float:
    """Sums the squared steps onto every n-th column and row, starting at `first_px`."""
    energy = 0.0
    for pixels in (image, image.swapaxes(0, 1)):
        steps = np.diff(pixels.astype(np.float32), axis=1)[:, first_px - 1 :: every_px]
        energy += float((steps**2).sum(dtype=np.float64))
    return energy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--crop", action="append", help="repeatable; the mean is printed too")
    parser.add_argument("--model", default=default_model(4))
    choices = parser.parse_args()
    model = load_model(choices.model, Engine.choose())
    ratios = []
    with open_slide(choices.slide) as slide:
        for crop in choices.crop or ["64,64,512,512"]:
            region = Box(*map(int, crop.split(","))).snapped(model.window_px)
            ratios.append(border_ratio(model, slide.frame().read, region))
            print(f"{crop}: {ratios[-1]:.4f}")
    print(f"mean {np.mean(ratios):.4f}")


if __name__ == "__main__":
    main()
