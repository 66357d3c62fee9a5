"""Does the grid of attention windows show? Gradient energy on window borders against no borders.

The same place is upscaled twice: once with window borders in it, once with the windows moved by
half their side, so that it lies inside them. What the picture holds is the same in both. 1.00 is no
trace of the windows.

python benchmarks/window_borders.py SLIDE [--crop x,y,w,h] [--model NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidesr.geometry import Box
from slidesr.model import Engine, Upscaler, load_model
from slidesr.slide import open_slide
from slidesr.weights import default_model

_U8 = npt.NDArray[np.uint8]


def border_ratio(upscaler: Upscaler, read: Callable[[Box], _U8], region: Box) -> float:
    """Mean squared step across the window borders of `region`, over the same places without.

    `region` is whole windows in source pixels; `read` gives it, its halo and half a window more.
    """
    half, window = upscaler.window_px // 2, upscaler.window_px
    wider = Box(region.x - half, region.y - half, region.width + window, region.height + window)
    with_borders, without = (
        upscaler.upscale(read(tile.grown(upscaler.halo_px))[None])[0] for tile in (region, wider)
    )
    inside = (region.within(wider) * upscaler.scale).slices
    step_px = window * upscaler.scale
    return _energy(with_borders, step_px) / _energy(without[inside], step_px)


def _energy(image: _U8, every_px: int) -> float:
    """Of the steps from one pixel to the next on every n-th column and row."""
    energies = []
    for pixels in (image, image.swapaxes(0, 1)):
        steps = np.diff(pixels.astype(np.float32), axis=1)[:, every_px - 1 :: every_px]
        energies.append(float((steps**2).mean()))
    return float(np.mean(energies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--crop", default="64,64,512,512")
    parser.add_argument("--model", default=default_model(4))
    choices = parser.parse_args()
    model = load_model(choices.model, Engine.choose())
    with open_slide(choices.slide) as slide:
        region = Box(*map(int, choices.crop.split(","))).snapped(model.window_px)
        print(f"{border_ratio(model, slide.frame().read, region):.4f}")


if __name__ == "__main__":
    main()
