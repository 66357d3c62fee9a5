"""Weights on disk: safetensors files with a descriptive header, and the shipped models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.stages import TrainingStage, stages_from_json
from slidesr.nets.encoder import Encoder, EncoderSpec
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.runtime.atomic_files import whole_file
from slidesr.runtime.bundled_files import bundled_folder, bundled_or_file
from slidesr.runtime.paths import check_file

_T = TypeVar("_T")
_Network = TypeVar("_Network", bound=nn.Module)
_MODEL, _ENCODER = "slidesr", "slidesr_encoder"  # metadata keys of the headers
_SHIPPED_ENCODER = "histology-encoder"
_LEAST_BYTES = 2  # per weight; a hostile header must not allocate gigabytes
_MAX_BYTES = 1 << 26  # twenty times the largest shipped model
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_KINDS: dict[str, type] = {
    **dict.fromkeys(("name", "stage", "licence"), str),
    **dict.fromkeys(("data", "recipe", "training", "scores"), dict),
    "compressed_inputs": bool,
}


@dataclass(frozen=True)
class ModelSpec:
    """The header of a model: all that is needed to rebuild and to assess it."""

    name: str
    generator: GeneratorSpec
    stage: str  # "fidelity" or "gan"
    trained_um_per_px: tuple[float, float]  # finest and coarsest low resolution seen in training
    licence: str
    compressed_inputs: bool = False  # trained on JPEG-compressed input, as stored in slides
    data: dict[str, str] = field(default_factory=dict)  # dataset -> terms
    stages: tuple[TrainingStage, ...] = ()  # the runs that made the weights, first to last
    scores: dict[str, Any] = field(default_factory=dict)  # data set -> method -> metric -> mean

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the last run; empty if the training is not stated."""
        return self.stages[-1].recipe if self.stages else {}

    @property
    def degradation(self) -> str:
        """How the inputs of the last run were made: "bicubic", "scanner" or "levels"."""
        return str(self.recipe.get("data", {}).get("degradation", "bicubic"))

    @property
    def start(self) -> str:
        """The name of the run before the last; empty if there is none."""
        return self.stages[-1].start if self.stages else ""

    @property
    def ablates(self) -> str:
        """The name of the recipe that the last run repeats without its critic, or empty."""
        name = self.recipe.get("ablates", "")
        return name if isinstance(name, str) and name.isprintable() else ""

    @property
    def patches(self) -> int:
        """Patches seen in all runs."""
        return sum(stage.patches for stage in self.stages)

    @property
    def seconds(self) -> int:
        """Training time of all runs."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def loss_networks(self) -> tuple[str, ...]:
        """The pretrained networks that took part in the losses of any run, by name."""
        return tuple(sorted({name for stage in self.stages for name in stage.loss_networks}))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Parses a header; raises ValueError, TypeError or KeyError if it is invalid."""
        table = _fields(text)
        if "training" in table:
            raise _OlderHeaderError
        table["stages"] = stages_from_json(table.get("stages", []))
        table["generator"] = GeneratorSpec(**table["generator"])
        finest, coarsest = map(float, table["trained_um_per_px"])
        if not 0 < finest <= coarsest < inf:
            raise ValueError(f"{finest} to {coarsest} um per pixel")
        table["trained_um_per_px"] = (finest, coarsest)
        return cls(**table)


@dataclass(frozen=True)
class EncoderHeader:
    """The header of an encoder."""

    name: str
    encoder: EncoderSpec
    licence: str
    data: dict[str, str] = field(default_factory=dict)  # dataset -> terms
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # device, seconds, patches
    scores: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EncoderHeader:
        """Parses a header; raises ValueError, TypeError or KeyError if it is invalid."""
        table = _fields(text)
        shape = {key: tuple(values) for key, values in table["encoder"].items()}
        return cls(**(table | {"encoder": EncoderSpec(**shape)}))


class _OlderHeaderError(ValueError):
    """The header tells the last run alone."""


def read_model(path: Path) -> tuple[ModelSpec, Generator]:
    """Reads the header and the generator, in fp32 and not folded. No code is executed.

    Raises RefusedError also if the weights are not those that its last run made.
    """
    spec = read_spec(path)
    if path.stat().st_size < _LEAST_BYTES * spec.generator.body_weights:
        raise RefusedError(f"{path}: too small for the network in its header")
    generator = _read_network(path, Generator(spec.generator))
    if spec.stages and spec.stages[-1].weights_sha256 != _tensors_sha256(path.read_bytes()):
        raise RefusedError(f"{path}: its weights are not those that its header tells of")
    return spec, generator


def read_spec(path: Path) -> ModelSpec:
    """Reads only the header, a few kilobytes."""
    return _read_header(path, _MODEL, ModelSpec.from_json)


def is_third_party(path: Path) -> bool:
    """Whether a weights file lacks slidesr's header. Raises RefusedError if it holds no weights."""
    return path.suffix == ".pth" or not {_MODEL, _ENCODER} & set(_metadata(path))


def save_model(path: Path, spec: ModelSpec, generator: Generator) -> None:
    """Writes the header and weights in fp16; the same input gives the same bytes.

    The last stage gets the hash of the weights as they are written.
    """
    state = _stored(path, generator)
    if spec.stages:
        own = replace(spec.stages[-1], weights_sha256=_tensors_sha256(save(state)))
        spec = replace(spec, stages=(*spec.stages[:-1], own))
    _write(path, {_MODEL: spec.to_json()}, state)


def read_encoder(path: Path) -> tuple[EncoderHeader, Encoder]:
    """Reads the header and the encoder in fp32. No code is executed."""
    header = _read_header(path, _ENCODER, EncoderHeader.from_json)
    return header, _read_network(path, Encoder(header.encoder))


def save_encoder(path: Path, header: EncoderHeader, encoder: Encoder) -> None:
    """Writes the header and weights in fp16; the same input gives the same bytes."""
    _write(path, {_ENCODER: header.to_json()}, _stored(path, encoder))


def list_models() -> list[tuple[Path, ModelSpec]]:
    """Lists the shipped upscaling models by name, without the encoder."""
    paths = sorted(models_folder().glob("*.safetensors"))
    return [(path, read_spec(path)) for path in paths if _ENCODER not in _metadata(path)]


def default_model(scale: int) -> str:
    """The name of the shipped WA-SRGAN for a scale, preferably one trained on JPEG input.

    Raises RefusedError if there is none.
    """
    specs = [spec for _, spec in list_models()]
    ours = [spec for spec in specs if spec.generator.architecture == "WA-SRGAN"]
    fitting = [spec for spec in ours if spec.generator.scale == scale]
    if fitting:
        return max(fitting, key=lambda spec: (spec.compressed_inputs, spec.stage == "gan")).name
    have = sorted({spec.generator.scale for spec in specs})
    raise RefusedError(
        f"no weights for x{scale} are shipped (there are: {', '.join(f'x{s}' for s in have)})."
        " Train some with slidesr train, and give the file with --model."
    )


def models_folder() -> Path:
    """The folder of the shipped models: inside an installed wheel, or beside the package."""
    return bundled_folder("_models", "models")


def find_model(name_or_path: str) -> Path:
    """Resolves a shipped model's name or a path; raises RefusedError if it is neither."""
    path = bundled_or_file(name_or_path, models_folder(), ".safetensors")
    if path:
        return path
    names = ", ".join(spec.name for _, spec in list_models())
    raise RefusedError(f"{name_or_path}: neither a file nor a shipped model ({names})")


def find_encoder() -> Path:
    """The path of the shipped encoder."""
    path = models_folder() / f"{_SHIPPED_ENCODER}.safetensors"
    if not path.is_file():
        raise RefusedError(f"{path}: the encoder is missing. Reinstall slidesr.")
    return path


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fields(header: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(header)
    for key, kind in _KINDS.items():
        if not isinstance(table.get(key, kind()), kind):
            raise TypeError(f"{key} is not a {kind.__name__}")
    if not table["name"].isprintable():
        raise ValueError("its name contains control characters")
    return table


def _metadata(path: Path) -> dict[str, str]:
    try:
        check_file(path)
        if path.stat().st_size > _MAX_BYTES:
            raise RefusedError(
                f"{path}: over {_MAX_BYTES >> 20} MiB, larger than any slidesr model"
            )
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RefusedError(f"{path}: not a safetensors file: {error}") from error


def _read_header(path: Path, key: str, parse: Callable[[str], _T]) -> _T:
    metadata = _metadata(path)
    if key not in metadata:
        held = {_MODEL: "an upscaling model", _ENCODER: "an encoder"}
        other = next((f", but one of {held[name]}" for name in held if name in metadata), "")
        raise RefusedError(f"{path}: has no {key} header{other}, so its network is unknown")
    try:
        return parse(metadata[key])
    except _OlderHeaderError as error:
        raise RefusedError(
            f"{path}: trained with an older slidesr, whose headers tell the last run alone."
            " Train it again, or use it with the slidesr that made it."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RefusedError(f"{path}: its {key} header is broken: {str(error)!r}") from error


def _read_network(path: Path, network: _Network) -> _Network:
    """Loads the tensors into the network once all of them have been checked."""
    expected = network.state_dict()
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(expected):
            odd = sorted(set(file.keys()) ^ set(expected))[0]
            raise RefusedError(f"{path}: not the weights its header describes: tensor {odd!r}")
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in expected}
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise RefusedError(f"{path}: tensor {name} has the shape {tuple(tensor.shape)}")
        if (tensor.dtype in _FLOATS) != expected[name].is_floating_point():
            raise RefusedError(f"{path}: tensor {name} is of the kind {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise RefusedError(f"{path}: tensor {name} holds a number that is not finite")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network.eval()


def _stored(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """The tensors in fp16; raises SlidesrError if one does not fit into it."""
    state = {
        name: tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise SlidesrError(f"{path}: tensor {name} is not finite in fp16: nothing was written")
    return state


def _tensors_sha256(file: bytes) -> str:
    """The digest of a safetensors file without its header, whose length the file begins with."""
    header_bytes = int.from_bytes(file[:8], "little")
    return hashlib.sha256(file[8 + header_bytes :]).hexdigest()


def _write(path: Path, metadata: dict[str, str], state: dict[str, Tensor]) -> None:
    with whole_file(path) as file:
        file.write(save(state, metadata=metadata))
