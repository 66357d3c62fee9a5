"""Validation during training: scores and pictures of held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging import metrics
from slidesr.imaging.resample import bicubic_down
from slidesr.model.device import mixed_precision
from slidesr.nets.generator import GeneratorSpec
from slidesr.nets.layers import as_pixels, as_tensor, bicubic
from slidesr.slide.image_files import group_of, image_paths, read_rgb

_SHOWN_PX = 256

Scores = dict[str, dict[str, float]]  # data set -> metric -> mean over its images


@dataclass(frozen=True)
class _Item:
    data: str
    high: Pixels  # [h, w, 3]
    low: Tensor  # f32[1, 3, h / scale, w / scale] in 0..1


class Validation:
    """Whole validation images, cropped to attention windows, and bicubic's scores on them."""

    def __init__(self, folder: Path, spec: GeneratorSpec) -> None:
        self._scale = spec.scale
        self._items = [_item(path, group_of(path, folder), spec) for path in image_paths(folder)]
        self.bicubic = self._score(lambda low: bicubic(low, self._scale))

    def scores(self, generator: nn.Module) -> Scores:
        """Computes PSNR in dB and SSIM per data set; preserves the generator's training mode."""
        device = next(generator.parameters()).device
        with _enlarging(generator) as enlarge, mixed_precision(device):
            return self._score(enlarge)

    def picture(self, generator: nn.Module) -> Pixels:
        """Draws low | bicubic | output | high, one row per data set: u8[h, w, 3]."""
        first = {item.data: item for item in reversed(self._items)}
        rows, width = [], min(_SHOWN_PX, *(item.high.shape[1] for item in first.values()))
        with _enlarging(generator) as enlarge:
            for item in first.values():
                output = as_pixels(enlarge(item.low))
                nearest = as_pixels(item.low).repeat(self._scale, 0).repeat(self._scale, 1)
                row = (nearest, as_pixels(bicubic(item.low, self._scale)), output, item.high)
                rows.append(np.hstack([part[:_SHOWN_PX, :width] for part in row]))
        return np.vstack(rows)

    def _score(self, enlarge: Callable[[Tensor], Tensor]) -> Scores:
        values: dict[str, list[tuple[float, float]]] = {}
        for item in self._items:
            output = as_pixels(enlarge(item.low))
            pair = metrics.psnr_db(output, item.high), metrics.ssim(output, item.high)
            values.setdefault(item.data, []).append(pair)
        return {
            data: dict(zip(("psnr_db", "ssim"), map(float, np.mean(pairs, axis=0)), strict=True))
            for data, pairs in values.items()
        }


@contextmanager
def _enlarging(generator: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """The generator in evaluation mode, CPU in and out; restores its training mode afterwards."""
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        with torch.inference_mode():
            yield lambda low: generator(low.to(device)).float().cpu()
    finally:
        generator.train(was_training)


def _item(path: Path, data: str, spec: GeneratorSpec) -> _Item:
    image, side = read_rgb(path), spec.scale * spec.grid_px
    height, width = (length // side * side for length in image.shape[:2])
    if not min(height, width):
        raise RefusedError(f"{path}: smaller than one attention window of {side} px")
    high = np.ascontiguousarray(image[:height, :width])
    low = as_tensor(bicubic_down(high, spec.scale))
    return _Item(data, high, low)
