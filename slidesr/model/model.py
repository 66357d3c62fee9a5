"""Upscaling tiles with a model on a device."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Pixels
from slidesr.model.device import Engine, keep_freed_memory, processor
from slidesr.model.perception import blended
from slidesr.model.weights import ModelSpec, find_model, read_model, sha256_of
from slidesr.nets.consistency import BEYOND_PX, consistent
from slidesr.nets.ensemble import TURNS, averaged
from slidesr.nets.generator import Generator
from slidesr.nets.inference_form import folded, same_on_any_threads, unpadded
from slidesr.nets.layers import trimmed

_log = logging.getLogger(__name__)


_PART_PX = 1024  # of output at a time: 2048 is 2% faster on a CPU for 1.3 GB more


class Upscaler(Protocol):
    """Upscales tiles. An output pixel depends only on source pixels within the halo."""

    @property
    def scale(self) -> int: ...

    @property
    def halo_px(self) -> int:
        """The context a tile needs on each side, in source pixels."""

    @property
    def window_px(self) -> int:
        """Tile positions and sizes are multiples of this, in source pixels."""

    @property
    def batch_size(self) -> int:
        """The number of equally shaped tiles per call; 1 if batching brings no speed."""

    def upscale(self, tiles: Pixels) -> Pixels:
        """u8[n, h + 2*halo, w + 2*halo, 3] -> u8[n, h*scale, w*scale, 3], both RGB."""


class Model:
    """A generator on a device. A tile's output bytes do not depend on the rest of its batch."""

    def __init__(
        self,
        spec: ModelSpec,
        generator: Generator,
        sha256: str,
        engine: Engine | None = None,
        *,
        perception: float | None = None,
        ensemble: bool = False,
        tolerance: float | None = None,
    ) -> None:
        """`tolerance` limits, in grey levels, how far the reduced output differs from the source.

        See `nets.consistency`. An `ensemble` averages eight passes: see `nets.ensemble`.
        `perception` says how the weights were interpolated.
        """
        self.spec, self.sha256 = spec, sha256
        self.perception, self.ensemble, self.tolerance = perception, ensemble, tolerance
        self.engine = engine or Engine()
        self._device = torch.device(self.engine.device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._trained = generator
        self._batch_that_fits = self.batch_size  # tiles that fit into the device's memory

    @property
    def label(self) -> str:
        """The name with the choices that change the result, such as "NAME, consistent to 2"."""
        label = self.spec.name
        if self.perception is not None:
            label += f", perception {self.perception:g}"
        if self.ensemble:
            label += " + ensemble"
        if self.tolerance is not None:
            label += ", consistent" + (f" to {self.tolerance:g}" if self.tolerance else "")
        return label

    @property
    def scale(self) -> int:
        return self.spec.generator.scale

    @property
    def halo_px(self) -> int:
        """The context a tile needs on each side, in source pixels; see `Generator.core`."""
        return self.spec.generator.halo_for(self._beyond_px)

    @property
    def _beyond_px(self) -> int:
        return 0 if self.tolerance is None else BEYOND_PX

    @property
    def window_px(self) -> int:
        """Tile positions and sizes are multiples of this, in source pixels."""
        return self.spec.generator.grid_px

    @property
    def passes(self) -> int:
        """How often the network sees a tile."""
        return len(TURNS) if self.ensemble else 1

    @property
    def machine(self) -> str:
        """Everything that determines the speed: processor, threads, torch and network."""
        if self._device.type == "cpu":
            on = processor()
        elif torch.cuda.is_available():
            on = torch.cuda.get_device_name(self._device)
        else:
            on = "a GPU elsewhere"
        threads = torch.get_num_threads()
        net = f"{self.spec.generator}, tolerance {self.tolerance}, {self.engine.precision}"
        net += ", ensemble" if self.ensemble else ""
        return f"{on}, {threads} threads, torch {torch.__version__}, {net}"

    @property
    def batch_size(self) -> int:
        """The number of tiles per forward pass.

        On a CPU batches bring no speed, and single tiles are independent by construction. On a GPU
        the choice of kernels depends on the batch size, so batches are padded to it.
        """
        return 1 if self._device.type == "cpu" else self.engine.batch_size

    def upscale(self, tiles: Pixels) -> Pixels:
        """u8[n, h + 2*halo, w + 2*halo, 3] -> u8[n, h*scale, w*scale, 3], both RGB.

        h and w are multiples of the window. Not thread-safe. Raises SlidesrError if the output is
        not finite, or if a single tile exceeds the device's memory.
        """
        outputs: list[Pixels] = []
        while (start := sum(map(len, outputs))) < len(tiles):
            batch = tiles[start : start + self._batch_that_fits]
            try:
                high = self._forward(_padded(batch, self._batch_that_fits))
            except torch.OutOfMemoryError:
                high = None
            if high is None:  # outside `except`, so the error no longer holds tensors
                self._halve_batch()
            else:
                outputs.append(high[: len(batch)])
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _halve_batch(self) -> None:
        """Halves the batch size for the rest of the run; the tiling does not change."""
        torch.cuda.empty_cache()
        if self._batch_that_fits == 1:
            raise SlidesrError(
                f"{self.engine.device}: out of memory for a single tile. Stop other programs on it,"
                " or choose another device with --device."
            )
        self._batch_that_fits //= 2
        _log.warning(
            "%s is out of memory: the batch size is now %d",
            self.engine.device,
            self._batch_that_fits,
        )

    def enlarge(self, image: Pixels) -> Pixels:
        """Upscales an image as one tile, mirrored at its borders: u8[h, w, 3] -> u8[h*s, w*s, 3].

        Attention windows start at its top left corner, as in training. Memory is linear in the
        image's area; for anything larger than a patch use `slidesr.pipeline`.
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
        high, good = self._run(self._generator, low)
        if not good.all() and self.engine.precision == "bf16":
            _log.warning("%s: bf16 output is not finite; repeating in fp32", self.spec.name)
            high[~good], good[~good] = self._run(self._exact, low[~good])
        if not good.all():
            raise SlidesrError(
                f"model {self.spec.name}: fp32 output is not finite. The weights or the device"
                " are faulty: try another with --device."
            )
        return _on_host(high).numpy()

    def _run(self, generator: Generator, low: Tensor) -> tuple[Tensor, Tensor]:
        """f32[n, 3, h + 2*halo, w + 2*halo] -> u8[n, h*scale, w*scale, 3], bool[n]: all finite."""
        n, tile = len(low), self._tile(low) * self.scale
        high = torch.empty((n, tile.height, tile.width, 3), dtype=torch.uint8, device=low.device)
        good = torch.ones(n, dtype=torch.bool, device=low.device)
        for part, output in (self._averaged if self.ensemble else self._enlarged)(generator, low):
            good &= torch.isfinite(output.sum((1, 2, 3)))  # NaN and infinity propagate
            if self.tolerance is not None:
                source = low[:, :, *part.moved(self.halo_px, self.halo_px).grown(BEYOND_PX).slices]
                output = consistent(output.clamp_(0, 1), source, self.scale, self.tolerance / 255)
            quantised = output.mul_(255).round_().clamp_(0, 255)
            high[:, *(part * self.scale).slices] = quantised.permute(0, 2, 3, 1)
        return high, good

    def _enlarged(self, generator: Generator, low: Tensor) -> Iterator[tuple[Box, Tensor]]:
        """Yields the parts of a tile, in source pixels, with what becomes of them.

        That is f32[n, 3, (h + 2*beyond)*scale, (w + 2*beyond)*scale] of a part. The layers after
        the attention have the largest maps and run on one part at a time.
        """
        kept = self.spec.generator.tail_radius_px + self._beyond_px
        attended = generator.attended(low, self._beyond_px)
        near = trimmed(low, self.halo_px - kept)
        for part in self._tile(low).cut(_PART_PX // self.scale):
            seen = part.moved(kept, kept).grown(kept).slices
            yield part, generator.enlarged(near[:, :, *seen], attended[:, :, *seen]).float()

    def _averaged(self, generator: Generator, low: Tensor) -> Iterator[tuple[Box, Tensor]]:
        """Yields the same as `_enlarged`, averaged over eight turns.

        Outputs may overlap; it does no harm to clamp them in place twice.
        """
        whole = averaged(partial(self._joined, generator), low)
        for part in self._tile(low).cut(_PART_PX // self.scale):
            yield part, whole[:, :, *self._joint(part)]

    def _joined(self, generator: Generator, low: Tensor) -> Tensor:
        """Puts the parts of a tile together; where they overlap they are equal."""
        rows, columns = self._joint(self._tile(low))
        whole = low.new_empty((len(low), 3, rows.stop, columns.stop))
        for part, output in self._enlarged(generator, low):
            whole[:, :, *self._joint(part)] = output
        return whole

    def _joint(self, part: Box) -> tuple[slice, slice]:
        """Where a part and what it has beyond it stand in the output of a tile."""
        beyond = self._beyond_px
        return (part.moved(beyond, beyond).grown(beyond) * self.scale).slices

    def _tile(self, low: Tensor) -> Box:
        """The tile without its halo, in source pixels from its corner."""
        height, width = (side - 2 * self.halo_px for side in low.shape[2:])
        return Box(0, 0, width, height)

    def _ready(self, precision: str) -> Generator:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        ready = unpadded(folded(self._trained, dtype))
        return same_on_any_threads(ready) if self._device.type == "cpu" else ready.to(self._device)

    @cached_property
    def _generator(self) -> Generator:
        """Moved to the device on first use: a process that only schedules work never does."""
        return self._ready(self.engine.precision)

    @cached_property
    def _exact(self) -> Generator:
        return self._ready("fp32")


def load_model(
    name_or_path: str,
    engine: Engine | None = None,
    *,
    perception: float | None = None,
    ensemble: bool = False,
    tolerance: float | None = None,
) -> Model:
    """Opens a shipped model by name, or a safetensors file by path.

    `perception` interpolates all weights between NAME-fidelity, at 0, and NAME, at 1: see
    `model.perception`. For `ensemble` and `tolerance` see `Model`. The model's label includes all
    three. Raises RefusedError for anything that is not a complete slidesr model.
    """
    path = find_model(name_or_path)
    spec, generator = read_model(path)
    sha256 = sha256_of(path)
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise RefusedError(f"tolerance {tolerance} is not a number of grey levels from 0 on")
    if perception is not None:
        generator, sha256 = blended(path, spec, generator, perception)
    return Model(
        *(spec, generator, sha256, engine),
        perception=perception,
        ensemble=ensemble,
        tolerance=tolerance,
    )


def _on_host(x: Tensor) -> Tensor:
    """Copies GPU output to pinned memory, which torch's allocator reuses."""
    if x.device.type == "cpu":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)


def _padded(batch: Pixels, size: int) -> Pixels:
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
