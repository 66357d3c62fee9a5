"""Does a model keep colours? The colour difference (CIEDE2000) of a slide and its reduced result.

    python benchmarks/colour.py SLIDE [--model NAME ...] [--crop x,y,w,h]

Each model enlarges the crop; its result and the crop are compared after both were averaged over
boxes of 8 x 8 source pixels, so that colour is compared and not detail. Prints the mean and the
99th percentile; below 1 nobody sees a difference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage.color import deltaE_ciede2000, rgb2lab

from slidesr.geometry import Box
from slidesr.model import Engine, load_model
from slidesr.slide import open_slide
from slidesr.weights import list_models

_U8 = npt.NDArray[np.uint8]
_F64 = npt.NDArray[np.float64]
_BOX_PX = 8


def colour_difference(low: _U8, high: _U8, scale: int) -> _F64:
    """CIEDE2000 of boxes of 8 x 8 low-resolution pixels: u8[h, w, 3], u8[h*s, w*s, 3] -> f64."""
    pair = [
        rgb2lab(_means(image, side) / 255)
        for image, side in ((low, _BOX_PX), (high, _BOX_PX * scale))
    ]
    difference: _F64 = deltaE_ciede2000(*pair)  # type: ignore[no-untyped-call]
    return difference


def _means(image: _U8, side: int) -> _F64:
    height, width = (length // side for length in image.shape[:2])
    boxes = image[: height * side, : width * side].reshape(height, side, width, side, 3)
    means: _F64 = boxes.mean(axis=(1, 3))
    return means


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", nargs="*", default=[spec.name for _, spec in list_models()])
    parser.add_argument("--crop", default="800,1000,512,512")
    chosen = parser.parse_args()
    with open_slide(chosen.slide) as slide:
        low = slide.frame().read(Box(*map(int, chosen.crop.split(","))))
    for name in chosen.model:
        model = load_model(name, Engine.choose("cpu"))
        difference = colour_difference(low, model.enlarge(low), model.scale)
        print(f"{name:30} mean {difference.mean():.2f}  p99 {np.percentile(difference, 99):.2f}")


if __name__ == "__main__":
    main()
