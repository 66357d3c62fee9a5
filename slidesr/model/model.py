"""Models in use: what upscales tiles, and on what."""

from __future__ import annotations

import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Pixels
from slidesr.model.device import Engine, keep_freed_memory, processor
from slidesr.model.weights import ModelSpec, find_model, read_model, sha256_of
from slidesr.nets.consistency import BEYOND_PX, consistent
from slidesr.nets.generator import Generator
from slidesr.nets.inference_form import folded, same_on_any_threads, unpadded
from slidesr.nets.layers import trimmed

_log = logging.getLogger(__name__)


_PART_PX = 1024  # of the output at a time: 2048 took 1.3 GB more for 2% of speed on a CPU


class Upscaler(Protocol):
    """What enlarges tiles. A pixel of the result depends on the pixels within its halo alone."""

    @property
    def scale(self) -> int: ...

    @property
    def halo_px(self) -> int:
        """What a tile needs around it, in source pixels."""

    @property
    def window_px(self) -> int:
        """Tiles begin on multiples of this, in source pixels, and are whole windows."""

    @property
    def batch_size(self) -> int:
        """How many tiles of one shape it takes at once; 1 where shapes may as well differ."""

    def upscale(self, tiles: Pixels) -> Pixels:
        """u8[n, h + 2*halo, w + 2*halo, 3] -> u8[n, h*scale, w*scale, 3], both RGB."""


class Model:
    """A generator ready for use. `upscale` gives the same bytes for a tile in any company."""

    def __init__(
        self,
        spec: ModelSpec,
        generator: Generator,
        sha256: str,
        engine: Engine | None = None,
        *,
        perception: float | None = None,
        tolerance: float | None = None,
    ) -> None:
        """With `tolerance`, in grey levels, the result matches its source to that when reduced.

        See `nets.consistency`. `perception` says how the weights were interpolated.
        """
        self.spec, self.sha256 = spec, sha256
        self.perception, self.tolerance = perception, tolerance
        self.engine = engine or Engine()
        self._device = torch.device(self.engine.device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._trained = generator
        self._fitting = self.batch_size  # so many tiles fit into the device's memory

    @property
    def label(self) -> str:
        """The name with the choices that change the result, such as "NAME, consistent to 2"."""
        label = self.spec.name
        if self.perception is not None:
            label += f", perception {self.perception:g}"
        if self.tolerance is not None:
            label += ", consistent" + (f" to {self.tolerance:g}" if self.tolerance else "")
        return label

    @property
    def scale(self) -> int:
        return self.spec.generator.scale

    @property
    def halo_px(self) -> int:
        """What a tile needs around it, in source pixels; see `Generator.core`."""
        return self.spec.generator.halo_for(self._beyond_px)

    @property
    def _beyond_px(self) -> int:
        return 0 if self.tolerance is None else BEYOND_PX

    @property
    def window_px(self) -> int:
        """Tiles begin on multiples of this, in source pixels."""
        return self.spec.generator.grid_px

    @property
    def machine(self) -> str:
        """What decides how fast it is: the network, and what it runs on."""
        if self._device.type == "cpu":
            on = processor()
        elif torch.cuda.is_available():
            on = torch.cuda.get_device_name(self._device)
        else:
            on = "a GPU elsewhere"
        threads = torch.get_num_threads()
        net = f"{self.spec.generator}, tolerance {self.tolerance}, {self.engine.precision}"
        return f"{on}, {threads} threads, torch {torch.__version__}, {net}"

    @property
    def batch_size(self) -> int:
        """Tiles that go through the network together.

        On a CPU a batch brings no speed, and tiles made one by one cannot depend on each other. On
        a GPU the kernels depend on the batch, so it is always full.
        """
        return 1 if self._device.type == "cpu" else self.engine.batch_size

    def upscale(self, tiles: Pixels) -> Pixels:
        """u8[n, h + 2*halo, w + 2*halo, 3] -> u8[n, h*scale, w*scale, 3], both RGB.

        h and w are whole windows. One thread at a time. Raises SlidesrError if the network gives no
        finite number, or one tile is too much for the device.
        """
        made: list[Pixels] = []
        while (start := sum(map(len, made))) < len(tiles):
            batch = tiles[start : start + self._fitting]
            try:
                high = self._forward(_padded(batch, self._fitting))
            except torch.OutOfMemoryError:
                high = None
            if high is None:  # here the error is gone, and with it what it held on the device
                self._halve_batch()
            else:
                made.append(high[: len(batch)])
        return made[0] if len(made) == 1 else np.concatenate(made)

    def _halve_batch(self) -> None:
        """Less at once, for good: the plan and its tiles stay as they are."""
        torch.cuda.empty_cache()
        if self._fitting == 1:
            raise SlidesrError(
                f"{self.engine.device}: its memory does not hold one tile. Stop what else uses it,"
                " or take another device with --device."
            )
        self._fitting //= 2
        _log.warning("%s is out of memory: batches of %d now", self.engine.device, self._fitting)

    def enlarge(self, image: Pixels) -> Pixels:
        """A whole image as one tile, mirrored at its borders: u8[h, w, 3] -> u8[h*s, w*s, 3].

        Attention windows begin at its top left, as in training. Memory is linear in the image; for
        more than a patch use `slidesr.pipeline`.
        """
        before = self.spec.generator.phase_px
        after = [-(before + side) % self.window_px for side in image.shape[:2]]
        beyond = [(self.halo_px + before, self.halo_px + side) for side in after]
        padded = np.pad(image, (*beyond, (0, 0)), mode="symmetric")
        inside = Box(before, before, image.shape[1], image.shape[0]) * self.scale
        high: Pixels = self.upscale(padded[None])[0][inside.slices]
        return high

    @torch.inference_mode()
    def _forward(self, tiles: Pixels) -> Pixels:
        pixels = torch.from_numpy(np.ascontiguousarray(tiles))
        if self._device.type == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        low = pixels.permute(0, 3, 1, 2).float().div_(255)  # channels_last already
        high, good = self._made(self._generator, low)
        if not good.all() and self.engine.precision == "bf16":
            _log.warning("%s: no number came out at bf16; made again at fp32", self.spec.name)
            high[~good], good[~good] = self._made(self._exact, low[~good])
        if not good.all():
            raise SlidesrError(
                f"model {self.spec.name}: no number came out at fp32. Its weights are broken, or"
                " the device is: try another with --device."
            )
        return _on_host(high).numpy()

    def _made(self, generator: Generator, low: Tensor) -> tuple[Tensor, Tensor]:
        """u8[n, h*scale, w*scale, 3], and bool[n]: whether each came of finite numbers alone.

        From f32[n, 3, h + 2*halo, w + 2*halo]. What is made after the attention is made of parts,
        since its maps are the largest.
        """
        scale, kept = self.scale, self.spec.generator.tail_radius_px + self._beyond_px
        attended = generator.attended(low, self._beyond_px)
        near = trimmed(low, self.halo_px - kept)
        n, _, height, width = low.shape
        tile = Box(0, 0, width - 2 * self.halo_px, height - 2 * self.halo_px)
        high = torch.empty(
            (n, tile.height * scale, tile.width * scale, 3), dtype=torch.uint8, device=low.device
        )
        good = torch.ones(n, dtype=torch.bool, device=low.device)
        for part in tile.cut(_PART_PX // scale):
            seen = part.moved(kept, kept).grown(kept).slices
            made = generator.enlarged(near[:, :, *seen], attended[:, :, *seen]).float()
            good &= torch.isfinite(made.sum((1, 2, 3)))  # one bad number spoils it
            if self.tolerance is not None:
                source = trimmed(near[:, :, *seen], kept - BEYOND_PX)
                made = consistent(made.clamp_(0, 1), source, scale, self.tolerance / 255)
            quantised = made.mul_(255).round_().clamp_(0, 255)
            high[:, *(part * scale).slices] = quantised.permute(0, 2, 3, 1)
        return high, good

    def _ready(self, precision: str) -> Generator:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        ready = unpadded(folded(self._trained, dtype))
        return same_on_any_threads(ready) if self._device.type == "cpu" else ready.to(self._device)

    @cached_property
    def _generator(self) -> Generator:
        """Brought to its device when it is first used: who hands out work elsewhere needs none."""
        return self._ready(self.engine.precision)

    @cached_property
    def _exact(self) -> Generator:
        return self._ready("fp32")


def load_model(
    name_or_path: str,
    engine: Engine | None = None,
    *,
    perception: float | None = None,
    tolerance: float | None = None,
) -> Model:
    """Opens a shipped model by name, or a safetensors file by path.

    With `perception`, 0 is the fidelity weights that lie beside NAME as NAME-fidelity, 1 is NAME's,
    and between them every weight is interpolated (Wang et al. 2018, ESRGAN, arXiv 1809.00219,
    section 3.4). For `tolerance` see `Model`; the label states both. Raises RefusedError for
    files that are not a whole slidesr model.
    """
    path = find_model(name_or_path)
    spec, generator = read_model(path)
    sha256 = sha256_of(path)
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise RefusedError(f"tolerance {tolerance} is not a number of grey levels from 0 on")
    if perception is not None:
        generator, sha256 = _blend(path, spec, generator, perception)
    return Model(spec, generator, sha256, engine, perception=perception, tolerance=tolerance)


def _blend(
    path: Path, spec: ModelSpec, generator: Generator, perception: float
) -> tuple[Generator, str]:
    """The weights between two files, and the hashes of both."""
    if not 0 <= perception <= 1:
        raise RefusedError(f"perception {perception} is not within 0..1")
    other = path.with_stem(f"{path.stem}-fidelity")
    if not other.is_file():
        raise RefusedError(
            f"{path}: perception goes from {other.name} to it, and there is no such file beside it"
        )
    fidelity_spec, fidelity = read_model(other)
    if fidelity_spec.generator != spec.generator:
        raise RefusedError(f"{other}: another network than {path.name}: {fidelity_spec.generator}")
    sources = f"{sha256_of(other)} {sha256_of(path)}"
    return _between(fidelity, generator, perception), sources


def _between(first: Generator, second: Generator, share: float) -> Generator:
    """A generator whose weights are `share` of the way from the first's to the second's."""
    theirs = second.state_dict()
    state = {
        name: tensor.lerp(theirs[name], share) if tensor.is_floating_point() else theirs[name]
        for name, tensor in first.state_dict().items()
    }
    blend = Generator(first.spec)
    blend.load_state_dict(state)
    return blend.eval()


def _on_host(x: Tensor) -> Tensor:
    """What a GPU made goes to pinned memory, by one copy of its own; torch keeps that for reuse."""
    if x.device.type == "cpu":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)


def _padded(batch: Pixels, size: int) -> Pixels:
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
