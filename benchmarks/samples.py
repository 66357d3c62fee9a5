"""Draws low | bicubic | fidelity | GAN | high at every scale, from Camelyon16 (CC0).

python benchmarks/samples.py VALID/camelyon16_tumor073 docs/images [MODEL ...]

Further models, the GAN stages trained without their critic for example, stand before the GAN of
their scale.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from slidesr.geometry import Pixels
from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.model.device import Engine
from slidesr.model.model import Model, load_model
from slidesr.slide.image_files import image_paths, read_rgb

_SHOWN_PX, _GAP_PX, _ROWS = 192, 4, 2


def main(folder: Path, out: Path, further: list[str]) -> None:
    paths = image_paths(folder)
    chosen = [paths[len(paths) * row // _ROWS] for row in range(_ROWS)]
    engine = Engine.choose("cpu", "fp32")
    others = [load_model(name, engine) for name in further]
    for scale in (2, 4, 8, 16):
        fidelity, gan = (load_model(f"wa-srgan-x{scale}{n}", engine) for n in ("-fidelity", ""))
        own = [model for model in others if model.spec.generator.scale == scale]
        rows = [_row(read_rgb(path), [fidelity, *own, gan]) for path in chosen]
        picture = _stacked(rows, axis=0)
        Image.fromarray(picture).save(out / f"x{scale}.webp", quality=90, method=6)
        print(out / f"x{scale}.webp")


def _row(image: Pixels, models: list[Model]) -> Pixels:
    scale = models[0].spec.generator.scale
    high = image[: image.shape[0] // 16 * 16, : image.shape[1] // 16 * 16]
    low = bicubic_down(high, scale)
    outputs = [model.enlarge(low) for model in models]
    shown = [low.repeat(scale, 0).repeat(scale, 1), bicubic_up(low, scale), *outputs, high]
    return _stacked([part[:_SHOWN_PX, :_SHOWN_PX] for part in shown], axis=1)


def _stacked(parts: list[Pixels], *, axis: int) -> Pixels:
    shape = [parts[0].shape[0], parts[0].shape[1], 3]
    shape[axis] = _GAP_PX
    gap = np.full(shape, 255, np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis=axis)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
