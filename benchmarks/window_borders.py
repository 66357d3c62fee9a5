"""Does the grid of attention windows show? Gradient energy on window borders against elsewhere.

Window borders are compared with the other source-pixel borders on multiples of 8 px: there the
upsampler's own rhythm is the same, and so are the block borders of a JPEG-compressed slide, on
which every window border lies too. Bicubic is the control: it knows no windows. Equal ratios are no
trace of the windows.

python benchmarks/window_borders.py SLIDE [--crop x,y,w,h]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidesr.geometry import Box
from slidesr.model import Engine, default_model, load_model
from slidesr.resample import bicubic_up
from slidesr.slide import open_slide

_JPEG_BLOCK_PX = 8


def border_ratio(image: npt.NDArray[np.uint8], scale: int, window_px: int) -> float:
    """Mean squared step across window borders over that across the other borders on 8 px."""
    energies = []
    for pixels in (image, image.swapaxes(0, 1)):
        steps = np.diff(pixels.astype(np.float32), axis=1) ** 2
        energy = steps.mean(axis=(0, 2))  # [w - 1]; entry i is the step from column i to i + 1
        step = energy[_JPEG_BLOCK_PX * scale - 1 :: _JPEG_BLOCK_PX * scale]
        on_window = (np.arange(1, len(step) + 1) * _JPEG_BLOCK_PX) % window_px == 0
        energies.append((step[on_window].mean(), step[~on_window].mean()))
    on, off = np.mean(energies, axis=0)
    return float(on / off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--crop", default="0,0,1024,1024")
    choices = parser.parse_args()
    model = load_model(default_model(4), Engine.choose())
    with open_slide(choices.slide) as slide:
        region = Box(*map(int, choices.crop.split(","))).snapped(model.window_px)
        frame = slide.frame()
        made = model.upscale(frame.read(region.grown(model.halo_px))[None])[0]
        bicubic = bicubic_up(frame.read(region), model.scale)
    for name, image in (("slidesr", made), ("bicubic", bicubic)):
        print(f"{name}: {border_ratio(image, model.scale, model.window_px):.4f}")


if __name__ == "__main__":
    main()
