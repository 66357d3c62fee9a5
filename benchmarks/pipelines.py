"""Other ways to run a network on a large image: three peers, and two forms of the network.

In all of them attention runs in windows on the grid of the image: a patch consists of whole windows
and starts on the grid. In the tile loop and in dask, patches overlap by one window, so that the
halo is half a window: 16 px for the default weights. (Real-ESRGAN's 10 px are not on the grid.)
MONAI's overlap is a quarter of the patch with Gaussian blending. This leaves seams, since the
receptive field is larger; a seamless tile loop needs an overlap of three windows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from typing import Any, cast

import dask.array as da
import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from rounds import Run, measured
from spans import Span, spans
from torch import Tensor

from slidesr.geometry import Pixels
from slidesr.model.device import Engine
from slidesr.model.weights import default_model, find_model, read_model
from slidesr.nets.generator import Generator
from slidesr.nets.inference_form import folded, same_on_any_threads
from slidesr.nets.layers import as_pixels, as_tensor, map_from_windows, windows_from_map

Network = Callable[[Tensor], Tensor]
"""f32[n, 3, h, w] in 0..1 -> f32[n, 3, h*scale, w*scale]; h and w are whole windows."""

_MONAI_OVERLAP = 0.25


@dataclass(frozen=True)
class Scene:
    """A square image in memory, u8[side, side, 3], and its division into patches (source px)."""

    image: Pixels
    scale: int
    window_px: int
    patch_px: int
    device: str
    batch_size: int
    overlapping_windows: int = 1

    @property
    def overlap_px(self) -> int:
        return self.overlapping_windows * self.window_px

    def patches(self, overlap_px: int) -> list[Span]:
        """The patches along each axis."""
        return spans(len(self.image), self.patch_px, overlap_px)


class Script:
    """A tile loop over the network as released, in a separate process, like a script.

    slidesr's memory settings do not apply there, so glibc returns freed memory to the system. In a
    process that has run other rows it would reuse their memory and take half as long.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __call__(self) -> Run:
        return self._process.submit(_run_script, self._scene).result()


def _run_script(scene: Scene) -> Run:
    _, trained = read_model(find_model(default_model(scene.scale)))
    network = as_released(trained.to(scene.device), scene.window_px)
    return measured(lambda: tile_loop(network, scene), scene.device)


def monai_overlap_px(scene: Scene) -> int:
    return int(scene.patch_px * _MONAI_OVERLAP)


def as_released(generator: Generator, window_px: int) -> Network:
    """WA-SRGAN as released, except that its attention is windowed.

    fp32, weight norm recomputed in each pass, attention with an explicit softmax, and the output
    convolution at high resolution.
    """

    def network(x: Tensor) -> Tensor:
        x = x.contiguous()
        head = generator.head(x)
        features = head + generator.fuse(generator.body(head))
        up = _explicit_attention(generator, features, window_px)
        for stage in generator.up:
            conv, slope = stage.children()
            up = slope(F.pixel_shuffle(conv(up), 2))
        image: Tensor = generator.output.conv(up)
        scale = float(generator.spec.scale)
        return image + F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)

    return network


def _explicit_attention(generator: Generator, features: Tensor, window_px: int) -> Tensor:
    attention: Any = generator.attention
    query, key, value = (
        windows_from_map(part(features), window_px)
        for part in (attention.query, attention.key, attention.value)
    )
    weights = (query @ key.transpose(-1, -2)).softmax(dim=-1)  # [n * windows, 1, w * w, w * w]
    attended = map_from_windows(weights @ value, features.shape, window_px)
    return cast(Tensor, features + attention.gamma * attended)


def as_ours(trained: Generator, engine: Engine) -> Network:
    """The network of `Model`, but padded, since the peers need output of the patch's full size."""
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    ready = same_on_any_threads(folded(trained.cpu(), dtype)).to(engine.device)

    def network(x: Tensor) -> Tensor:
        output: Tensor = ready(x.contiguous(memory_format=torch.channels_last))
        return output.float()

    return network


@torch.inference_mode()
def tile_loop(network: Network, scene: Scene) -> Pixels:
    """Real-ESRGAN's `tile_process`: whole image and whole output on the device."""
    whole, scale = as_tensor(scene.image).to(scene.device), scene.scale
    height, width = (side * scale for side in scene.image.shape[:2])
    result = torch.zeros(1, 3, height, width, device=scene.device)
    patches = scene.patches(scene.overlap_px)
    for rows, columns in product(patches, patches):
        output = network(whole[:, :, rows.seen, columns.seen])
        result[:, :, rows.kept(scale), columns.kept(scale)] = output[
            :, :, rows.inside(scale), columns.inside(scale)
        ]
    return as_pixels(result)


@torch.inference_mode()
def monai(network: Network, scene: Scene) -> Pixels:
    """MONAI's sliding window: image and output on the host, windows on the device."""
    output = sliding_window_inference(
        as_tensor(scene.image),
        scene.patch_px,
        scene.batch_size,
        network,
        overlap=_MONAI_OVERLAP,
        mode="gaussian",
        sw_device=scene.device,
        device="cpu",
    )
    return as_pixels(cast(Tensor, output))


def dask(network: Network, scene: Scene) -> Pixels:
    """dask's `map_overlap`: a chunk is a patch without its halo.

    Chunks run one after the other, since torch already uses all cores. dask's threads are slower:
    their memory is returned to the system after each layer.
    """
    scale, depth = scene.scale, scene.window_px // 2
    sides = tuple(patch.last - patch.first for patch in scene.patches(scene.window_px))
    source = da.from_array(scene.image, chunks=(sides, sides, 3))
    output_sides = tuple(side * scale for side in sides)

    @torch.inference_mode()
    def enlarged(block: Pixels, block_info: Any = None) -> Pixels:
        info = block_info[0]
        output = as_pixels(network(as_tensor(block).to(scene.device)))
        ends = zip(info["chunk-location"], info["num-chunks"], strict=True)
        rows, columns, _ = (
            slice(depth * scale * (at > 0), -depth * scale if at < count - 1 else None)
            for at, count in ends
        )
        return output[rows, columns]

    result = da.map_overlap(
        enlarged,
        source,
        depth={0: depth, 1: depth, 2: 0},
        boundary="none",
        trim=False,  # it does not support a scale
        chunks=(output_sides, output_sides, (3,)),
        meta=np.empty((0, 0, 0), np.uint8),
    )
    return cast(Pixels, result.compute(scheduler="synchronous"))
