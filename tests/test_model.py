"""Models on disk and in use: what is saved comes back, what is hostile is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slidesr import model as model_module
from slidesr.card import card
from slidesr.errors import RefusedError, SlidesrError
from slidesr.model import (
    Engine,
    Model,
    ModelSpec,
    default_model,
    list_models,
    load_model,
    models_folder,
    read_model,
    read_spec,
    save_model,
)
from slidesr.nets.generator import Generator, GeneratorSpec

U8 = NDArray[np.uint8]
Make = Callable[[GeneratorSpec], Generator]
Describe = Callable[[GeneratorSpec], ModelSpec]
Tensors = dict[str, Tensor]

TINY = GeneratorSpec(2, "weight", 4, bicubic_skip=True, channels=8, blocks=1)
BATCH_NORM = replace(TINY, norm="batch", bicubic_skip=False)
GOLDEN = Path(__file__).parent / "golden"
SHIPPED = sorted(models_folder().glob("*.safetensors"))
MOST_BYTES = 32 << 20  # of all shipped weights: what a package may weigh

each_shipped = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def spec(model_spec: Describe) -> ModelSpec:
    return model_spec(TINY)


@pytest.fixture
def saved(tmp_path: Path, spec: ModelSpec, trained_looking: Make) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(path, spec, trained_looking(TINY))
    return path


@pytest.fixture(scope="session")
def tiny(spec: ModelSpec, trained_looking: Make) -> Model:
    return Model(spec, trained_looking(TINY), "")


# Saved and loaded


@pytest.mark.parametrize("generator_spec", [TINY, BATCH_NORM], ids=["weight", "batch"])
def test_a_model_comes_back_as_it_was_saved(
    generator_spec: GeneratorSpec, tmp_path: Path, model_spec: Describe, trained_looking: Make
) -> None:
    spec, generator = model_spec(generator_spec), trained_looking(generator_spec)
    path = tmp_path / "tiny.safetensors"
    save_model(path, spec, generator)
    loaded_spec, loaded = read_model(path)
    assert loaded_spec == spec
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


def test_a_loaded_model_knows_its_file(saved: Path, spec: ModelSpec) -> None:
    model = load_model(str(saved))
    assert model.sha256 == sha256(saved.read_bytes()).hexdigest()
    assert model.spec == spec == read_spec(saved)
    assert (model.scale, model.window_px) == (2, 4)
    assert model.halo_px == TINY.halo_px == 7 + 4  # 4 + 1 block + 2, then a window
    assert model.engine == Engine("cpu", "fp32", 16)


def test_a_header_survives_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert isinstance(ModelSpec.from_json(spec.to_json()).trained_um_per_px, tuple)


# In use


def noise(*shape: int, seed: int = 0) -> U8:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_upscale_is_the_network_rounded_once(tiny: Model, trained_looking: Make) -> None:
    tiles = noise(1, 8 + 2 * tiny.halo_px, 4 + 2 * tiny.halo_px, 3)
    low = torch.from_numpy(tiles).permute(0, 3, 1, 2).double() / 255
    with torch.inference_mode():
        high = trained_looking(TINY).double().core(low)[0].permute(1, 2, 0).numpy() * 255
    made = tiny.upscale(tiles)
    assert made.shape == (1, 16, 8, 3)
    assert made.dtype == np.uint8
    assert np.abs(made[0] - high.clip(0, 255)).max() < 0.51


def test_what_lies_outside_0_to_255_is_clipped(
    tiny: Model, spec: ModelSpec, trained_looking: Make
) -> None:
    generator, tiles = trained_looking(TINY), noise(1, 26, 26, 3)
    for bias, value in ((2.0, 255), (-2.0, 0)):
        nn.init.zeros_(generator.output.conv.weight)
        nn.init.constant_(generator.output.conv.bias, bias)  # type: ignore[arg-type]
        assert (Model(spec, generator, "").upscale(tiles) == value).all()


@settings(max_examples=15, deadline=None)
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=7), batch_size=st.integers(1, 9))
def test_a_tile_gives_the_same_bytes_in_any_company(order: list[int], batch_size: int) -> None:
    model, tiles, alone = in_company(batch_size)
    np.testing.assert_array_equal(model.upscale(tiles[order]), alone[order])


def test_on_a_cpu_tiles_are_made_one_by_one(
    spec: ModelSpec, trained_looking: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of one differs from a larger one by 3e-7, at sizes that a test cannot afford."""
    model, core, sizes = Model(spec, trained_looking(TINY), ""), Generator.core, list[int]()

    def watched(generator: Generator, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return core(generator, x)

    monkeypatch.setattr(Generator, "core", watched)
    model.upscale(noise(3, 4 + 2 * model.halo_px, 4 + 2 * model.halo_px, 3))
    assert sizes == [1, 1, 1]


def in_company(batch_size: int) -> tuple[Model, U8, U8]:
    """A model, four tiles, and what the model makes of each alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(TINY)
    nn.init.constant_(generator.attention.gamma, 0.7)
    spec = ModelSpec("tiny", TINY, "fidelity", (0.9, 2.0), "CC0")
    model = Model(spec, generator, "", Engine("cpu", "fp32", batch_size))
    tiles = noise(4, 4 + 2 * model.halo_px, 8 + 2 * model.halo_px, 3)
    return model, tiles, np.concatenate([model.upscale(tile[None]) for tile in tiles])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 9), (8, 4), (13, 6)])
def test_enlarge_takes_any_size(height: int, width: int, tiny: Model) -> None:
    image = noise(height, width, 3)
    before = image.copy()
    assert tiny.enlarge(image).shape == (2 * height, 2 * width, 3)
    np.testing.assert_array_equal(image, before)


def test_enlarge_equals_its_tiles(tiny: Model) -> None:
    image, halo, window = noise(13, 6, 3), tiny.halo_px, tiny.window_px
    rows, columns = (mirrored(side, halo, window) for side in image.shape[:2])
    whole = np.zeros((32, 16, 3), np.uint8)
    for top in range(0, 16, window):
        for left in range(0, 8, window):
            tile = image[rows[top : top + window + 2 * halo]][
                :, columns[left : left + window + 2 * halo]
            ]
            whole[2 * top :, 2 * left :][: 2 * window, : 2 * window] = tiny.upscale(tile[None])[0]
    np.testing.assert_array_equal(tiny.enlarge(image), whole[:26, :12])


def mirrored(side: int, halo: int, window: int) -> list[int]:
    """The pixel that stands at each place from -halo on: ... 1 0 | 0 1 2 ... n-1 | n-1 ..."""
    there_and_back = [*range(side), *reversed(range(side))]
    end = -(-side // window) * window + halo
    return [there_and_back[place % (2 * side)] for place in range(-halo, end)]


def test_what_is_not_a_number_is_never_an_image(spec: ModelSpec, trained_looking: Make) -> None:
    generator = trained_looking(TINY)
    assert generator.output.conv.bias is not None
    generator.output.conv.bias.data[1] = torch.nan
    with pytest.raises(SlidesrError, match=r"tiny.*fp32") as caught:
        Model(spec, generator, "").enlarge(noise(4, 4, 3))
    assert not isinstance(caught.value, RefusedError)


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
        b"",
        b"PK\x03\x04",
        b"these are no weights\n" * 100,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    ],
    ids=["empty", "zip", "text", "endless header", "no JSON", "no UTF-8"],
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
    monkeypatch.setattr(model_module, "_MAX_BYTES", saved.stat().st_size - 1)
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
        {"name": 7},
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
        {"window": 0},
        {"window": 2.5},
        {"window": float("nan")},
        {"channels": 10**9},
        {"channels": -8},
        {"channels": 8.0},
        {"blocks": 10**9},
        {"blocks": 1.5},
        {"expansion": 10**9},
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

    monkeypatch.setattr(model_module, "Generator", build)
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
    nn.init.constant_(generator.attention.gamma, 1e5)
    with pytest.raises(SlidesrError, match=r"attention\.gamma"):
        save_model(tmp_path / "tiny.safetensors", spec, generator)
    assert not list(tmp_path.iterdir())


# Found by name


@pytest.mark.parametrize("name", ["nonsense", "../tests", ".", "", "no/such/file.safetensors"])
def test_an_unknown_model_lists_the_shipped_ones(name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        load_model(name)
    assert all(path.stem in str(caught.value) for path in SHIPPED)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the shipped models."""
    monkeypatch.setattr(model_module, "models_folder", lambda: tmp_path)
    return tmp_path


def put(shelf: Path, spec: ModelSpec, generator: Generator) -> None:
    save_model(shelf / f"{spec.name}.safetensors", spec, generator)


def test_a_shipped_model_loads_by_name(shelf: Path, spec: ModelSpec, trained_looking: Make) -> None:
    put(shelf, spec, trained_looking(TINY))
    assert load_model("tiny").spec == spec
    assert list_models() == [(shelf / "tiny.safetensors", spec)]


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


# Engines


@pytest.mark.parametrize(
    "device", ["", "gpu", "tpu", "meta", "mps", "cuda:x", "cuda:-1", "cuda:64", "cuda:200", "CPU"]
)
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(RefusedError, match=repr(device)):
        Engine.choose(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(RefusedError, match="0 CUDA devices"):
        Engine.choose("cuda")
    assert Engine.choose().device == "cpu"


@pytest.mark.parametrize("precision", ["", "fp16", "float32", "FP32"])
def test_a_precision_that_is_not_offered_is_refused(precision: str) -> None:
    with pytest.raises(RefusedError, match=repr(precision)):
        Engine.choose("cpu", precision)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none_is_refused(batch_size: int) -> None:
    with pytest.raises(RefusedError, match=str(batch_size)):
        Engine.choose("cpu", "fp32", batch_size)


@pytest.mark.parametrize(
    ("in_hardware", "precision"), [((True, False), "bf16"), ((False, False), "fp32")]
)
def test_bf16_is_chosen_where_the_processor_has_it(
    in_hardware: tuple[bool, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    avx512, amx = in_hardware
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert Engine.choose("cpu") == Engine("cpu", precision, 16)
    assert Engine.choose("cpu", "fp32", 3) == Engine("cpu", "fp32", 3)


def test_bf16_stays_near_fp32(spec: ModelSpec, tiny: Model, trained_looking: Make) -> None:
    image = noise(8, 8, 3)
    half = Model(spec, trained_looking(TINY), "", Engine("cpu", "bf16")).enlarge(image)
    difference = np.abs(half.astype(int) - tiny.enlarge(image))
    assert 0 < difference.max() <= 6


# The shipped models


def test_the_models_lie_beside_the_package() -> None:
    assert models_folder().is_dir()
    assert SHIPPED


def test_the_models_fit_into_a_package() -> None:
    assert sum(path.stat().st_size for path in models_folder().rglob("*")) < MOST_BYTES


@each_shipped
def test_a_shipped_model_loads_under_its_name(path: Path) -> None:
    spec, _ = read_model(path)
    assert spec.name == path.stem
    assert spec.stage in ("fidelity", "gan")
    assert spec.data
    assert spec.recipe["generator"] == asdict(spec.generator)


@each_shipped
def test_the_card_is_that_of_the_file(path: Path) -> None:
    digest = sha256(path.read_bytes()).hexdigest()
    text = path.with_suffix(".md").read_text()
    assert digest in text
    assert text == card(read_spec(path), digest)


@each_shipped
def test_a_shipped_model_beats_what_learns_nothing(path: Path) -> None:
    spec = read_spec(path)
    assert spec.scores
    for data, methods in spec.scores.items():
        ours = methods[spec.name]
        for baseline in ("bicubic", "bicubic + back-projection"):
            for metric in ("psnr_db", "ssim", "ms_ssim", "qilv"):
                assert ours[metric] > methods[baseline][metric], (data, baseline, metric)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@each_shipped
def test_tiles_of_a_shipped_model_are_its_whole(path: Path, precision: str, section: U8) -> None:
    if precision == "bf16" and Engine.choose("cpu").precision != "bf16":
        pytest.skip("the processor has no bf16 units")
    model = load_model(path.stem, Engine("cpu", precision))
    halo, window, scale = model.halo_px, model.window_px, model.scale
    whole = section[100 - halo : 100 + 2 * window + halo, 250 - halo : 250 + 2 * window + halo]
    large = model.upscale(whole[None])[0]
    cells = [(top, left) for top in (0, window) for left in (0, window)]
    side = window + 2 * halo
    tiles = np.stack([whole[top : top + side, left : left + side] for top, left in cells])
    for (top, left), made in zip(cells, model.upscale(tiles), strict=True):
        part = large[top * scale :, left * scale :][: window * scale, : window * scale]
        np.testing.assert_array_equal(made, part)


@each_shipped
def test_golden_tile(path: Path, section: U8) -> None:
    golden = GOLDEN / f"{path.stem}.png"
    assert golden.is_file(), f"{golden} is missing: make it with `python tests/make_golden.py`"
    with Image.open(golden) as image:
        expected = np.array(image)
    made = load_model(path.stem).enlarge(section[200:248, 300:348])
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= 1
