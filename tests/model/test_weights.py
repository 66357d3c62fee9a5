"""Weights on disk: what is saved comes back, what is hostile is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model import weights as weights_module
from slidesr.model.model import load_model
from slidesr.model.weights import (
    ModelSpec,
    default_model,
    list_models,
    read_model,
    read_spec,
    save_model,
)
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import WindowAttention

Make = Callable[[GeneratorSpec], Generator]
Describe = Callable[[GeneratorSpec], ModelSpec]
Tensors = dict[str, Tensor]

TINY = GeneratorSpec(2, "weight", 4, bicubic_skip=True, channels=8, blocks=1)
BATCH_NORM = replace(TINY, norm="batch", bicubic_skip=False)


@pytest.fixture(scope="session")
def spec(model_spec: Describe) -> ModelSpec:
    return model_spec(TINY)


def as_written(spec: ModelSpec, path: Path) -> ModelSpec:
    """The header of a file: its last run has the hash of the tensors, all that follows it."""
    content = path.read_bytes()
    digest = sha256(content[8 + struct.unpack("<Q", content[:8])[0] :]).hexdigest()
    return replace(
        spec, stages=(*spec.stages[:-1], replace(spec.stages[-1], weights_sha256=digest))
    )


@pytest.fixture
def saved(tmp_path: Path, spec: ModelSpec, trained_looking: Make) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(path, spec, trained_looking(TINY))
    return path


# Saved and loaded


@pytest.mark.parametrize("generator_spec", [TINY, BATCH_NORM], ids=["weight", "batch"])
def test_a_model_comes_back_as_it_was_saved(
    generator_spec: GeneratorSpec, tmp_path: Path, model_spec: Describe, trained_looking: Make
) -> None:
    spec, generator = model_spec(generator_spec), trained_looking(generator_spec)
    path = tmp_path / "tiny.safetensors"
    save_model(path, spec, generator)
    loaded_spec, loaded = read_model(path)
    assert loaded_spec == as_written(spec, path)
    assert not loaded.training
    before, after = generator.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        half = tensor.half().float() if tensor.is_floating_point() else tensor
        assert after[name].dtype == half.dtype
        assert torch.equal(after[name], half), name
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_weights_are_stored_as_halves(saved: Path) -> None:
    assert {tensor.dtype for tensor in load_file(saved).values()} == {torch.float16}


def test_the_same_model_gives_the_same_file(
    saved: Path, tmp_path: Path, spec: ModelSpec, trained_looking: Make
) -> None:
    again = tmp_path / "again.safetensors"
    save_model(again, ModelSpec.from_json(spec.to_json()), trained_looking(TINY))
    assert again.read_bytes() == saved.read_bytes()


def test_a_header_survives_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert isinstance(ModelSpec.from_json(spec.to_json()).trained_um_per_px, tuple)


# The runs in the header


def test_the_sums_are_those_of_all_runs(spec: ModelSpec) -> None:
    first, last = spec.stages
    assert (spec.patches, spec.seconds) == (4_096, 607)
    assert (spec.recipe, spec.start) == (last.recipe, "before")
    felt = replace(spec, stages=(replace(first, loss_networks=("b", "a network")), last))
    assert felt.loss_networks == ("a network", "b")
    bare = replace(spec, stages=())
    assert (bare.patches, bare.seconds, bare.recipe, bare.start) == (0, 0, {}, "")
    assert (bare.loss_networks, bare.ablates) == ((), "")


def test_new_scores_leave_the_hash_of_the_weights(saved: Path) -> None:
    """Of the tensors alone: it names the same weights in this file and in those made from it."""
    spec, generator = read_model(saved)
    before = sha256(saved.read_bytes()).hexdigest()
    save_model(saved, replace(spec, scores={"b": {}}), generator)
    assert sha256(saved.read_bytes()).hexdigest() != before
    assert read_spec(saved).stages == spec.stages


def test_weights_under_the_header_of_others_are_refused(saved: Path) -> None:
    """Whatever changed them, the header tells of a training that did not make them."""
    bias = load_file(saved)["head.0.bias"] + 1
    assert "not those that its header" in refusal(rewritten(saved, change={"head.0.bias": bias}))


def test_a_header_of_an_older_slidesr_is_refused_with_what_to_do(saved: Path) -> None:
    table = asdict(read_spec(saved))
    del table["stages"]
    table |= {"recipe": {}, "training": {"patches": 96, "seconds": 7, "device": "a test"}}
    message = refusal(rewritten(saved, header=json.dumps(table)))
    assert "older slidesr" in message
    assert "Train it again" in message


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"name": ""},
        {"name": 7},
        {"name": "a\x1b[31m"},
        {"name": "a" * 300},
        {"device": "a\nb"},
        {"device": None},
        {"start": "../elsewhere"},
        {"start": ""},
        {"recipe": []},
        {"weights_sha256": "a"},
        {"weights_sha256": "G" * 64},
        {"patches": -1},
        {"patches": 1.5},
        {"patches": True},
        {"patches": 10**400},
        {"seconds": float("nan")},
        {"seconds": "7"},
        {"loss_networks": "VGG19"},
        {"loss_networks": [["VGG19"]]},
        {"loss_networks": ["\x07"]},
        {"loss_networks": ["-"]},
        {"loss_networks": ["a"] * 1000},
    ],
    ids=lambda change: str(change)[:32],
)
def test_a_run_with_wrong_fields_is_refused(change: dict[str, Any], saved: Path) -> None:
    table = json.loads(read_spec(saved).to_json())
    table["stages"][1] |= change
    assert "header is broken" in refusal(rewritten(saved, header=json.dumps(table)))


@pytest.mark.parametrize(
    "stages", [None, {}, "tiny", [1], [[]], [{}], [None] * 10**5], ids=lambda it: str(it)[:16]
)
def test_what_are_no_runs_is_refused(stages: Any, saved: Path) -> None:
    table = asdict(read_spec(saved)) | {"stages": stages}
    assert "header is broken" in refusal(rewritten(saved, header=json.dumps(table)))


def test_a_run_that_lacks_a_field_is_refused(saved: Path) -> None:
    good = json.loads(read_spec(saved).to_json())
    for key in good["stages"][0]:
        table = deepcopy(good)
        del table["stages"][0][key]
        assert "header is broken" in refusal(rewritten(saved, header=json.dumps(table)))


# Hostile and broken files


def rewritten(path: Path, *, header: str | None = None, change: Tensors | None = None) -> Path:
    """The file with another header or other tensors."""
    header = read_spec(path).to_json() if header is None else header
    tensors = load_file(path) | (change or {})
    save_file(tensors, path, metadata={"slidesr": header})
    return path


def edited(path: Path, **changes: Any) -> Path:
    """The file whose header has other generator fields."""
    table = asdict(read_spec(path))
    table["generator"] |= changes
    return rewritten(path, header=json.dumps(table))


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        load_model(str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04",
        b"these are no weights\n" * 100,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    ],
    ids=["zip", "text", "endless header", "no JSON", "no UTF-8"],
)
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert "not a safetensors file" in refusal(path)


class Explosive:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("write", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))])
def test_a_pickle_is_refused_and_not_executed(
    write: Callable[[object, Path], object], tmp_path: Path
) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    write({"weights": Explosive(trace)}, path)
    assert "not a safetensors file" in refusal(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Explosive(trace)))  # noqa: S301 - the trap is real
    assert trace.exists()


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(kept: float, saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    assert "not a safetensors file" in refusal(saved)


def test_a_file_larger_than_any_model_is_refused_unread(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "_MAX_BYTES", saved.stat().st_size - 1)
    assert "larger than any" in refusal(saved)


def test_a_file_without_a_header_is_refused(saved: Path) -> None:
    save_file(load_file(saved), saved)
    assert "has no slidesr header" in refusal(saved)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        "[" * 100_000,
        json.dumps({"generator": {"scale": 4}}),
        json.dumps({"generator": None}),
        json.dumps({"generator": [4]}),
    ],
    ids=lambda header: header[:16] or "empty",
)
def test_a_broken_header_is_refused(header: str, saved: Path) -> None:
    assert "header is broken" in refusal(rewritten(saved, header=header))


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"two\nlines": 1},
        {"trained_um_per_px": "ab"},
        {"trained_um_per_px": 1.0},
        {"trained_um_per_px": [1.0]},
        {"trained_um_per_px": [0.0, 1.0]},
        {"trained_um_per_px": [2.0, 1.0]},
        {"trained_um_per_px": [1.0, float("nan")]},
        {"name": 7},
        {"name": "a\x1b[31m"},
        {"scores": 3},
    ],
    ids=str,
)
def test_a_header_with_wrong_fields_is_refused(change: dict[str, Any], saved: Path) -> None:
    table = asdict(read_spec(saved)) | change
    assert "header is broken" in refusal(rewritten(saved, header=json.dumps(table)))


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"scale": 3},
        {"scale": "4"},
        {"scale": 2.0},
        {"norm": "instance"},
        {"norm": ["weight"]},
        {"window": -1},
        {"window": 2.5},
        {"window": float("nan")},
        {"channels": 10**9},
        {"channels": -8},
        {"channels": 8.0},
        {"blocks": 10**9},
        {"blocks": 1.5},
        {"expansion": 10**9},
        {"channels": 512, "expansion": 16},
        {"window": 129},
        {"bicubic_skip": "no"},
    ],
    ids=str,
)
def test_an_absurd_network_is_refused_before_it_is_built(
    changes: dict[str, Any], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(saved, **changes)

    def build(spec: GeneratorSpec) -> Generator:
        raise AssertionError(f"built {spec}")

    monkeypatch.setattr(weights_module, "Generator", build)
    assert "header is broken" in refusal(saved)


def test_a_header_of_another_network_is_refused(saved: Path) -> None:
    assert "tensor" in refusal(edited(saved, blocks=2))


def test_a_large_network_without_its_weights_takes_no_memory(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header of a kilobyte must not make 2 GB of random numbers."""
    drawn: list[int] = []

    def draw(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.device.type != "meta":
            drawn.append(tensor.numel())
        return tensor

    monkeypatch.setattr(nn.init, "kaiming_uniform_", draw)
    edited(saved, channels=256, blocks=2)
    refusal(saved)
    assert sum(drawn) < 1e6


def test_a_missing_tensor_is_refused(saved: Path) -> None:
    header, tensors = read_spec(saved).to_json(), load_file(saved)
    del tensors["head.0.bias"]
    save_file(tensors, saved, metadata={"slidesr": header})
    assert "head.0.bias" in refusal(saved)


def test_an_extra_tensor_is_refused(saved: Path) -> None:
    assert "extra" in refusal(rewritten(saved, change={"extra": torch.zeros(1)}))
    assert "two" in refusal(rewritten(saved, change={"a two\nlines": torch.zeros(1)}))


@pytest.mark.parametrize("shape", [(), (7,), (9,), (8, 1)], ids=str)
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...], saved: Path) -> None:
    assert "head.0.bias" in refusal(rewritten(saved, change={"head.0.bias": torch.zeros(shape)}))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, saved: Path) -> None:
    bias = torch.zeros(8)
    bias[3] = value
    message = refusal(rewritten(saved, change={"head.0.bias": bias}))
    assert "head.0.bias" in message
    assert "finite" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_weights_of_another_kind_are_refused(dtype: torch.dtype, saved: Path) -> None:
    odd = torch.zeros(8, dtype=dtype)
    assert "head.0.bias" in refusal(rewritten(saved, change={"head.0.bias": odd}))


def test_weights_too_large_for_halves_are_not_saved(
    tmp_path: Path, spec: ModelSpec, trained_looking: Make
) -> None:
    """They would become infinite, and a file that no one can load would stand for a long run."""
    generator = trained_looking(TINY)
    assert isinstance(generator.attention, WindowAttention)
    nn.init.constant_(generator.attention.gamma, 1e5)
    with pytest.raises(SlidesrError, match=r"attention\.gamma"):
        save_model(tmp_path / "tiny.safetensors", spec, generator)
    assert not list(tmp_path.iterdir())


# Found by name


@pytest.mark.parametrize("name", ["nonsense", "../tests", ".", "", "no/such/file.safetensors"])
def test_an_unknown_model_lists_the_shipped_ones(name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        load_model(name)
    assert all(spec.name in str(caught.value) for _, spec in list_models())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the shipped models."""
    monkeypatch.setattr(weights_module, "models_folder", lambda: tmp_path)
    return tmp_path


def put(shelf: Path, spec: ModelSpec, generator: Generator) -> None:
    save_model(shelf / f"{spec.name}.safetensors", spec, generator)


def test_a_shipped_model_loads_by_name(shelf: Path, spec: ModelSpec, trained_looking: Make) -> None:
    put(shelf, spec, trained_looking(TINY))
    path = shelf / "tiny.safetensors"
    written = as_written(spec, path)
    assert load_model("tiny").spec == written
    assert list_models() == [(path, written)]


def test_the_default_prefers_the_gan_of_the_scale(
    shelf: Path, spec: ModelSpec, trained_looking: Make
) -> None:
    put(shelf, replace(spec, name="a"), trained_looking(TINY))
    assert default_model(2) == "a"
    put(shelf, replace(spec, name="b", stage="gan"), trained_looking(TINY))
    large = replace(TINY, scale=4)
    put(shelf, replace(spec, name="c", stage="gan", generator=large), trained_looking(large))
    assert (default_model(2), default_model(4)) == ("b", "c")


def test_a_scale_without_weights_is_refused(
    shelf: Path, spec: ModelSpec, trained_looking: Make
) -> None:
    with pytest.raises(RefusedError, match="x8"):
        default_model(8)
    put(shelf, spec, trained_looking(TINY))
    with pytest.raises(RefusedError, match=r"x8.*x2.*slidesr train"):
        default_model(8)


def test_a_header_of_a_giant_network_costs_nothing(tmp_path: Path, spec: ModelSpec) -> None:
    path = tmp_path / "giant.safetensors"
    giant = replace(spec.generator, channels=512, blocks=64, expansion=2)
    save_file({"a": torch.zeros(1)}, path, {"slidesr": replace(spec, generator=giant).to_json()})
    with pytest.raises(RefusedError, match="too small"):
        read_model(path)


def test_the_commands_start_without_the_compiler() -> None:
    """Importing torch's compiler takes as long as torch itself, and nothing here needs it."""
    code = "import sys; from slidesr.model.model import load_model;"
    code += "load_model('wa-srgan-x4-fidelity');"
    code += "assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
