"""Models in use: the same bytes for a tile in any company, and the shipped weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.models import golden_input, tiny_generator
from support.networks import needs_bf16
from torch import Tensor, nn

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.card import card
from slidesr.model.device import Engine, use_threads
from slidesr.model.model import Model, load_model
from slidesr.model.weights import (
    ModelSpec,
    list_models,
    models_folder,
    read_model,
    read_spec,
    save_model,
)
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import WindowAttention

U8 = NDArray[np.uint8]
Make = Callable[[GeneratorSpec], Generator]
Describe = Callable[[GeneratorSpec], ModelSpec]

TINY = GeneratorSpec(2, "weight", 4, bicubic_skip=True, channels=8, blocks=1)
GOLDEN = Path(__file__).parents[1] / "golden"
SHIPPED = [path for path, _ in list_models()]
MOST_BYTES = 32 << 20  # of all shipped weights: what a package may weigh

each_shipped = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def spec(model_spec: Describe) -> ModelSpec:
    return model_spec(TINY)


@pytest.fixture(scope="session")
def tiny(spec: ModelSpec, trained_looking: Make) -> Model:
    return Model(spec, trained_looking(TINY), "")


# In use


def test_a_loaded_model_knows_its_file(
    tmp_path: Path, spec: ModelSpec, trained_looking: Make
) -> None:
    saved = tmp_path / "tiny.safetensors"
    save_model(saved, spec, trained_looking(TINY))
    model = load_model(str(saved))
    assert model.sha256 == sha256(saved.read_bytes()).hexdigest()
    assert model.spec == read_spec(saved)
    assert replace(model.spec, stages=spec.stages) == spec
    assert (model.scale, model.window_px) == (2, 4)
    assert model.halo_px == TINY.halo_px == 7 + 6  # 4 + 1 block + 2, then half a window and one
    assert model.engine == Engine("cpu", "fp32", 16)


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
    generator = trained_looking(TINY)
    tiles = noise(1, 4 + 2 * TINY.halo_px, 4 + 2 * TINY.halo_px, 3)
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
    model, attended = Model(spec, trained_looking(TINY), ""), Generator.attended
    sizes: list[int] = []

    def watched(generator: Generator, x: Tensor, beyond_px: int = 0) -> Tensor:
        sizes.append(len(x))
        return attended(generator, x, beyond_px)

    monkeypatch.setattr(Generator, "attended", watched)
    model.upscale(noise(3, 4 + 2 * model.halo_px, 4 + 2 * model.halo_px, 3))
    assert sizes == [1, 1, 1]


def in_company(batch_size: int) -> tuple[Model, U8, U8]:
    """A model, four tiles, and what the model makes of each alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(TINY)
    assert isinstance(generator.attention, WindowAttention)
    nn.init.constant_(generator.attention.gamma, 0.7)
    spec = ModelSpec("tiny", TINY, "fidelity", (0.9, 2.0), "CC0")
    model = Model(spec, generator, "", Engine("cpu", "fp32", batch_size))
    tiles = noise(4, 4 + 2 * model.halo_px, 8 + 2 * model.halo_px, 3)
    return model, tiles, np.concatenate([model.upscale(tile[None]) for tile in tiles])


@pytest.mark.parametrize("part_px", [8, 24, 56])
def test_parts_leave_no_trace(part_px: int, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = noise(2, 20 + 2 * tiny.halo_px, 12 + 2 * tiny.halo_px, 3)
    whole = tiny.upscale(tiles)
    monkeypatch.setattr("slidesr.model.model._PART_PX", part_px)
    assert np.abs(tiny.upscale(tiles).astype(int) - whole).max() <= 1  # tiny maps, other kernels


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
    np.testing.assert_array_equal(tiny.enlarge(image), whole[4:30, 4:16])


def mirrored(side: int, halo: int, window: int) -> list[int]:
    """The pixel that stands at each place: ... 1 0 | 0 1 2 ... n-1 | n-1 ...

    From the first tile's halo on; it begins half a window before the image.
    """
    there_and_back = [*range(side), *reversed(range(side))]
    half = window // 2
    end = -(-(side + half) // window) * window - half + halo
    return [there_and_back[place % (2 * side)] for place in range(-half - halo, end)]


def test_what_is_not_a_number_is_never_an_image(spec: ModelSpec, trained_looking: Make) -> None:
    generator = trained_looking(TINY)
    assert generator.output.conv.bias is not None
    generator.output.conv.bias.data[1] = torch.nan
    with pytest.raises(SlidesrError, match=r"tiny.*fp32") as caught:
        Model(spec, generator, "").enlarge(noise(4, 4, 3))
    assert not isinstance(caught.value, RefusedError)


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


def test_a_torch_that_lacks_the_private_checks_runs_in_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert Engine.choose("cpu") == Engine("cpu", "fp32", 16)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_bf16_is_refused_where_the_processor_cannot_compute_it(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidesr.model.device.runs_bf16", lambda: False)
    with pytest.raises(RefusedError, match="cannot compute it") as caught:
        Engine.choose(device, "bf16")
    assert "\n" not in str(caught.value)
    assert Engine.choose("cpu", "fp32").precision == "fp32"


@needs_bf16
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
    assert GeneratorSpec(**spec.recipe["generator"]) == spec.generator


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
        ours, bicubic = methods[spec.name], methods["bicubic"]
        for metric in ("ssim", "ms_ssim", "qilv"):
            assert ours[metric] > bicubic[metric], (data, metric)
        level_db = 0.05 if spec.stage == "gan" else 0  # at x16 a GAN may be level with it
        assert ours["psnr_db"] > bicubic["psnr_db"] - level_db, data
        if spec.name.startswith("wa-srgan-x"):  # those of the comparison had minutes of training
            for metric in ("distance_lite2", "texture_lite2"):
                assert ours[metric] < bicubic[metric], (data, metric)
        if spec.stage == "fidelity" and spec.degradation == "bicubic":
            for metric in ("psnr_db", "ssim", "qilv"):
                assert ours[metric] > methods["bicubic + back-projection"][metric], (data, metric)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@each_shipped
def test_tiles_of_a_shipped_model_are_its_whole(path: Path, precision: str, section: U8) -> None:
    if precision == "bf16" and Engine.choose("cpu").precision != "bf16":
        pytest.skip("the processor has no bf16 units")
    model = load_model(path.stem, Engine("cpu", precision))
    halo, scale = model.halo_px, model.scale
    inner = max(model.window_px, 32)  # torch has another convolution for maps below 18 px squared
    whole = section[100 - halo : 100 + 2 * inner + halo, 250 - halo : 250 + 2 * inner + halo]
    large = model.upscale(whole[None])[0]
    cells = [(top, left) for top in (0, inner) for left in (0, inner)]
    side = inner + 2 * halo
    tiles = np.stack([whole[top : top + side, left : left + side] for top, left in cells])
    for (top, left), made in zip(cells, model.upscale(tiles), strict=True):
        part = large[top * scale :, left * scale :][: inner * scale, : inner * scale]
        np.testing.assert_array_equal(made, part)


@each_shipped
def test_golden_tile(path: Path, section: U8) -> None:
    golden = GOLDEN / f"{path.stem}.png"
    assert golden.is_file(), f"{golden} is missing: make it with `python tests/make_golden.py`"
    with Image.open(golden) as image:
        expected = np.array(image)
    model = load_model(path.stem)
    made = model.enlarge(golden_input(section, model.scale))
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("tolerance", "ensemble"), [(None, False), (2.0, False), (2.0, True)])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_any_number_of_threads_gives_the_same_bytes(
    precision: str, tolerance: float | None, *, ensemble: bool
) -> None:
    tiles = np.random.default_rng(5).integers(0, 255, (1, 288, 288, 3), dtype=np.uint8)
    before = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2, 3):
            use_threads(count)
            engine = Engine("cpu", precision)
            model = Model(*tiny_generator(4), "", engine, ensemble=ensemble, tolerance=tolerance)
            made.append(model.upscale(tiles))
    finally:
        use_threads(before)
    assert all(np.array_equal(each, made[0]) for each in made)
