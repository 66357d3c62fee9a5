"""Speed of the whole command against a plain tile loop, and against the machine's ceiling.

The plain loop is what patch scripts do (Real-ESRGAN's): the whole image in memory, tile after tile
with 10 px of padding, the network as released (fp32, weight norm not folded, the output convolution
at high resolution, attention over the whole tile by an explicit softmax), PNG-like u8 at the end.
slidesr runs its whole command: read, network, pyramid, JPEG, OME-TIFF. Attention context differs:
the loop's is its tile, slidesr's is the model's window.

python benchmarks/throughput.py [--side 768] [--rounds 3] [--tile 64]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from material import texture, write_slide
from torch import Tensor

from slidesr.geometry import Box
from slidesr.model import Engine
from slidesr.nets.cost import convolution_ceiling, flops_per_px
from slidesr.nets.generator import Generator
from slidesr.nets.layers import as_tensor
from slidesr.upscale import Options, prepared, upscale
from slidesr.weights import default_model, models_folder, read_model

_PAD_PX = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=768, help="source pixels, squared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tile", type=int, default=64, help="of the plain loop")
    choices = parser.parse_args()
    spec, generator = read_model(models_folder() / f"{default_model(4)}.safetensors")
    image = texture(Box(0, 0, choices.side, choices.side))
    with tempfile.TemporaryDirectory() as folder:
        slide = write_slide(Path(folder) / "slide.tif", choices.side, choices.side)
        output = Path(folder) / "out.ome.tif"
        plain: list[float] = []
        ours: list[float] = []
        for turn in range(choices.rounds):
            order = ("plain", "ours") if turn % 2 else ("ours", "plain")
            for who in order:
                started = time.monotonic()
                if who == "plain":
                    _plain_loop(generator, image, choices.tile)
                    plain.append(time.monotonic() - started)
                else:
                    _whole_command(slide, output)
                    ours.append(time.monotonic() - started)
    megapixels = image.shape[0] * image.shape[1] / 1e6
    ratios = [slow / fast for slow, fast in zip(plain, ours, strict=True)]
    ceiling = convolution_ceiling("cpu", Engine.choose("cpu").precision)
    flops = flops_per_px(spec.generator) * megapixels * 1e6
    print(f"plain loop    {megapixels / statistics.median(plain):.4f} source Mpx/s (median)")
    print(f"slidesr       {megapixels / statistics.median(ours):.4f} source Mpx/s (median)")
    print(f"ratio         {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})")
    print(f"ceiling       {ceiling / 1e9:.0f} GFLOP/s, 3x3 convolution 64->64")
    print(f"share of it   {flops / statistics.median(ours) / ceiling:.0%}, the whole command")


def _whole_command(slide: Path, output: Path) -> None:
    with prepared(slide, output, Options(tissue="all", overwrite=True)) as job:
        upscale(job)


@torch.inference_mode()
def _plain_loop(generator: Generator, image: npt.NDArray[np.uint8], tile: int) -> Tensor:
    height, width = image.shape[:2]
    scale = generator.spec.scale
    whole = as_tensor(image)
    made = torch.zeros(1, 3, height * scale, width * scale)
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            top, left = max(0, y - _PAD_PX), max(0, x - _PAD_PX)
            part = whole[:, :, top : y + tile + _PAD_PX, left : x + tile + _PAD_PX]
            enlarged = _as_released(generator, part)
            row, column = (y - top) * scale, (x - left) * scale
            bottom, right = min(y + tile, height) * scale, min(x + tile, width) * scale
            made[:, :, y * scale : bottom, x * scale : right] = enlarged[
                :, :, row : row + bottom - y * scale, column : column + right - x * scale
            ]
    return (made * 255).round().clamp(0, 255).to(torch.uint8)


def _as_released(generator: Generator, x: Tensor) -> Tensor:
    """The forward pass in the form in which WA-SRGAN was released."""
    head = generator.head(x)
    features = head + generator.fuse(generator.body(head))
    attention: Any = generator.attention
    query, key, value = (
        part(features).flatten(2) for part in (attention.query, attention.key, attention.value)
    )
    weights = (query.transpose(1, 2) @ key).softmax(dim=-1)  # [n, h*w, h*w]
    attended = (value @ weights.transpose(1, 2)).reshape(features.shape)
    up = features + attention.gamma * attended
    for stage in generator.up:
        conv, slope = stage.children()
        up = slope(F.pixel_shuffle(conv(up), 2))
    image: Tensor = generator.output.conv(up)
    scale = float(generator.spec.scale)
    return image + F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)


if __name__ == "__main__":
    main()
