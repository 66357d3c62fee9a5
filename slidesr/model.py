"""Models on disk and in use: safetensors whose header says everything, and what upscales tiles."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from slidesr.errors import RefusedError, SlidesrError
from slidesr.nets.folding import folded
from slidesr.nets.generator import Generator, GeneratorSpec

_U8 = npt.NDArray[np.uint8]
_HEADER = "slidesr"
_MAX_BYTES = 1 << 30
_PACKAGE = Path(__file__).parent
_KINDS: dict[str, type] = {
    **dict.fromkeys(("name", "stage", "licence"), str),
    **dict.fromkeys(("data", "recipe", "training", "scores"), dict),
    "compressed_inputs": bool,
}


@dataclass(frozen=True)
class ModelSpec:
    """What a weights file says of itself, in its header; enough to rebuild and to judge it."""

    name: str
    generator: GeneratorSpec
    stage: str  # "fidelity" or "gan"
    trained_um_per_px: tuple[float, float]  # finest and coarsest low resolution seen in training
    licence: str
    compressed_inputs: bool = (
        False  # has seen JPEG-compressed input, which is how slides are stored
    )
    data: dict[str, str] = field(default_factory=dict)  # dataset -> terms
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # device, seconds, patches
    scores: dict[str, Any] = field(default_factory=dict)  # data set -> method -> metric -> mean

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Raises ValueError, TypeError or KeyError on anything that is not such a header."""
        table = json.loads(text)
        table["generator"] = GeneratorSpec(**table["generator"])
        finest, coarsest = map(float, table["trained_um_per_px"])
        table["trained_um_per_px"] = (finest, coarsest)
        for key, kind in _KINDS.items():
            if not isinstance(table.get(key, kind()), kind):
                raise TypeError(f"{key} is not a {kind.__name__}")
        return cls(**table)


@dataclass(frozen=True)
class Engine:
    """What a model runs on: cpu, cuda or cuda:N; fp32 or bf16; tiles a batch on a GPU."""

    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 16

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "auto", batch_size: int = 16) -> Engine:
        """Resolves `auto`: a GPU where torch sees one, bf16 where the device has it in hardware."""
        device = _device(device)
        if batch_size < 1:
            raise RefusedError(f"batch size {batch_size} is not positive")
        return cls(device, _precision(precision, device), batch_size)


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

    def upscale(self, tiles: _U8) -> _U8:
        """u8[n, h + 2*halo, w + 2*halo, 3] -> u8[n, h*scale, w*scale, 3], both RGB."""


class Model:
    """A generator ready for use. `upscale` gives the same bytes for a tile in any company."""

    def __init__(
        self, spec: ModelSpec, generator: Generator, sha256: str, engine: Engine | None = None
    ) -> None:
        self.spec, self.sha256 = spec, sha256
        self.engine = engine or Engine()
        self._device = torch.device(self.engine.device)
        if self._device.type == "cpu":
            _keep_freed_memory()
        dtype = torch.bfloat16 if self.engine.precision == "bf16" else torch.float32
        self._generator = folded(generator, dtype).to(self._device)

    @property
    def scale(self) -> int:
        return self.spec.generator.scale

    @property
    def halo_px(self) -> int:
        """What a tile needs around it, in source pixels; see `Generator.core`."""
        return self.spec.generator.halo_px

    @property
    def window_px(self) -> int:
        """Tiles begin on multiples of this, in source pixels."""
        return self.spec.generator.window

    @property
    def batch_size(self) -> int:
        """Tiles that go through the network together.

        On a CPU a batch brings no speed, and tiles made one by one cannot depend on each other. On
        a GPU the kernels depend on the batch, so it is always full.
        """
        return 1 if self._device.type == "cpu" else self.engine.batch_size

    def upscale(self, tiles: _U8) -> _U8:
        """u8[n, h + 2*halo, w + 2*halo, 3] -> u8[n, h*scale, w*scale, 3], both RGB.

        h and w are whole windows. Raises SlidesrError if the network gives no finite number.
        """
        size = self.batch_size
        batches = [tiles[start : start + size] for start in range(0, len(tiles), size)]
        return np.concatenate(
            [self._forward(_padded(batch, size))[: len(batch)] for batch in batches]
        )

    def enlarge(self, image: _U8) -> _U8:
        """A whole image as one tile, mirrored at its borders: u8[h, w, 3] -> u8[h*s, w*s, 3].

        Memory is linear in the image; for more than a patch use `slidesr.upscale`.
        """
        height, width = image.shape[:2]
        beyond = [(self.halo_px, self.halo_px + -side % self.window_px) for side in (height, width)]
        padded = np.pad(image, (*beyond, (0, 0)), mode="symmetric")
        return self.upscale(padded[None])[0, : height * self.scale, : width * self.scale]

    @torch.inference_mode()
    def _forward(self, tiles: _U8) -> _U8:
        pixels = torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device)
        low = pixels.permute(0, 3, 1, 2).float().div_(255)  # channels_last already
        high = self._generator.core(low)
        if not torch.isfinite(high).all():
            raise SlidesrError(
                f"model {self.spec.name}: not a number came out at {self.engine.precision}"
            )
        quantised = high.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        return quantised.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def load_model(name_or_path: str, engine: Engine | None = None) -> Model:
    """Opens a shipped model by name, or a safetensors file by path.

    Raises RefusedError for anything that is not a whole slidesr model.
    """
    path = find_model(name_or_path)
    spec, generator = read_model(path)
    return Model(spec, generator, hashlib.sha256(path.read_bytes()).hexdigest(), engine)


def read_model(path: Path) -> tuple[ModelSpec, Generator]:
    """The header and the generator in fp32, not folded. The file is data and is never executed."""
    spec = read_spec(path)
    with torch.device("meta"):  # shapes alone: a hostile header must not cost gigabytes
        expected = Generator(spec.generator).state_dict()
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(expected):
            odd = sorted(set(file.keys()) ^ set(expected))[0]
            raise RefusedError(f"{path}: not the weights its header describes: tensor {odd!r}")
        state = {name: file.get_tensor(name) for name in expected}
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise RefusedError(f"{path}: tensor {name} has the shape {tuple(tensor.shape)}")
        if tensor.is_floating_point() != expected[name].is_floating_point() or tensor.is_complex():
            raise RefusedError(f"{path}: tensor {name} is of the kind {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise RefusedError(f"{path}: tensor {name} holds a number that is not finite")
    generator = Generator(spec.generator)
    generator.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return spec, generator.eval()


def read_spec(path: Path) -> ModelSpec:
    """The header alone; reads a few kilobytes."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RefusedError(
                f"{path}: over {_MAX_BYTES >> 20} MiB, larger than any slidesr model"
            )
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except (OSError, SafetensorError) as error:
        raise RefusedError(f"{path}: not a safetensors file: {error}") from error
    if header is None:
        raise RefusedError(f"{path}: has no slidesr header, so its network is unknown")
    try:
        return ModelSpec.from_json(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RefusedError(f"{path}: its slidesr header is broken: {str(error)!r}") from error


def save_model(path: Path, spec: ModelSpec, generator: Generator) -> None:
    """Writes weights in fp16 with the header; the same input gives the same bytes."""
    state = {
        name: tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in generator.state_dict().items()
    }
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise SlidesrError(f"{path}: tensor {name} is not finite in fp16: nothing was written")
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(save(state, metadata={_HEADER: spec.to_json()}))
    part.replace(path)


def list_models() -> list[tuple[Path, ModelSpec]]:
    """The shipped models, by name."""
    return [(path, read_spec(path)) for path in sorted(models_folder().glob("*.safetensors"))]


def default_model(scale: int) -> str:
    """The shipped model for slides at a scale: one that knows JPEG, before one that does not.

    Raises RefusedError where there is none.
    """
    specs = [spec for _, spec in list_models()]
    fitting = [spec for spec in specs if spec.generator.scale == scale]
    if fitting:
        return max(fitting, key=lambda spec: (spec.compressed_inputs, spec.stage == "gan")).name
    have = sorted({spec.generator.scale for spec in specs})
    raise RefusedError(
        f"no weights for x{scale} are shipped (there are: {', '.join(f'x{s}' for s in have)})."
        " Train some with slidesr train, and give the file with --model."
    )


def models_folder() -> Path:
    """Where the shipped models lie: inside an installed wheel, beside the package in a checkout."""
    installed = _PACKAGE / "_models"
    return installed if installed.is_dir() else _PACKAGE.parent / "models"


def find_model(name_or_path: str) -> Path:
    """The file of a shipped model, or the file itself."""
    shipped = models_folder() / f"{name_or_path}.safetensors"
    if shipped.is_file() and "/" not in name_or_path:
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = ", ".join(spec.name for _, spec in list_models())
    raise RefusedError(f"{name_or_path}: neither a file nor a shipped model ({names})")


@cache
def _keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks for the next tile instead of returning them at once.

    Each layer's map is a block of 10-140 MB; with fresh pages for each, half of the time went into
    page faults (measured: 0.076 against 0.141 source Mpx/s at x4 on two cores). Peak memory is the
    same. It helps in the main thread: other threads' heaps end at 64 MB. Elsewhere than on glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def _padded(batch: _U8, size: int) -> _U8:
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise RefusedError(f"device {device!r}: not one of auto, cpu, cuda, cuda:N") from error
    if wanted.type not in ("cpu", "cuda"):
        raise RefusedError(f"device {device!r}: not one of auto, cpu, cuda, cuda:N")
    if wanted.type == "cuda" and not (0 <= (wanted.index or 0) < torch.cuda.device_count()):
        raise RefusedError(
            f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _precision(precision: str, device: str) -> str:
    if precision not in ("auto", "fp32", "bf16"):
        raise RefusedError(f"precision {precision!r}: not one of auto, fp32, bf16")
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"
