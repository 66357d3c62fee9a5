"""The ensemble is the mean of eight passes, and the same in any tile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidesr.model.device import Engine
from slidesr.model.model import Model, load_model
from slidesr.model.weights import ModelSpec
from slidesr.nets.consistency import BEYOND_PX, consistent
from slidesr.nets.ensemble import TURNS, Turn
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import as_tensor, trimmed

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Make = Callable[..., Model]

# Windows as large as the shipped models': on smaller maps a CPU's kernels depend on the width.
WIDE = GeneratorSpec(2, "weight", 32, bicubic_skip=True, channels=8, blocks=1)
SPECS = [
    WIDE,
    GeneratorSpec(4, "batch", 33, bicubic_skip=False, channels=8, blocks=1),
    GeneratorSpec(4, "batch", 0, bicubic_skip=True, block="plain", channels=8, blocks=1),
]


@pytest.fixture(scope="module")
def make(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
    trained_looking: Callable[[GeneratorSpec], Generator],
) -> Make:
    def made(
        spec: GeneratorSpec, tolerance: float | None = None, *, ensemble: bool = True
    ) -> Model:
        return Model(
            model_spec(spec),
            trained_looking(spec),
            "",
            Engine("cpu", "fp32"),
            ensemble=ensemble,
            tolerance=tolerance,
        )

    return made


def twin(generator: Generator, tile: U8, tolerance: float | None) -> F32:
    """u8[h + 2*halo, w + 2*halo, 3] -> f32[h*s, w*s, 3]: passes one by one, turned by numpy."""
    beyond = 0 if tolerance is None else BEYOND_PX
    passes = []
    for quarters, mirrored in product(range(4), (False, True)):
        image = np.rot90(tile[:, ::-1] if mirrored else tile, quarters)
        core = generator.core(as_tensor(np.ascontiguousarray(image)), beyond)
        high = np.rot90(core[0].permute(1, 2, 0).numpy(), -quarters)
        passes.append(high[:, ::-1] if mirrored else high)
    mean = np.stack(passes).mean(axis=0)
    if tolerance is not None:
        source = trimmed(as_tensor(tile), generator.spec.halo_for(beyond) - beyond)
        large = torch.from_numpy(mean.clip(0, 1)).permute(2, 0, 1)[None]
        made = consistent(large, source, generator.spec.scale, tolerance / 255)
        mean = made[0].permute(1, 2, 0).numpy()
    levels: F32 = mean.clip(0, 1) * 255
    return levels


def cut(section: U8, model: Model, rows: int, columns: int) -> U8:
    """A tile of so many windows, or px where there are none, with its halo."""
    step, halo = max(model.window_px, 20), model.halo_px
    around = np.tile(section, (1, 2, 1))
    return around[100 : 100 + rows * step + 2 * halo, 50 : 50 + columns * step + 2 * halo]


@torch.inference_mode()
@pytest.mark.parametrize("tolerance", [None, 1.0])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_it_is_the_mean_of_eight_passes_rounded_once(
    make: Make,
    trained_looking: Callable[[GeneratorSpec], Generator],
    section: U8,
    spec: GeneratorSpec,
    tolerance: float | None,
) -> None:
    model = make(spec, tolerance)
    tile = cut(section, model, 1, 2)
    expected = twin(trained_looking(spec), tile, tolerance)
    assert np.abs(model.upscale(tile[None])[0] - expected).max() < 0.51
    single = make(spec, tolerance, ensemble=False).upscale(tile[None])[0]
    assert np.abs(single - expected).max() > 1  # the eight do differ


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 2),
    columns=st.integers(1, 2),
    down=st.integers(0, 1),
    right=st.integers(0, 2),
    tolerance=st.sampled_from([None, 0.0]),
)
def test_a_tile_is_the_same_in_any_company(
    make: Make,
    section: U8,
    rows: int,
    columns: int,
    down: int,
    right: int,
    tolerance: float | None,
) -> None:
    model = make(WIDE, tolerance)
    around = cut(section, model, rows + down, columns + right)
    y, x = down * model.window_px, right * model.window_px
    whole = model.upscale(around[None])[0]
    tile = model.upscale(around[None, y:, x:])[0]
    assert np.array_equal(tile, whole[y * model.scale :, x * model.scale :])


@pytest.mark.parametrize("name", ["wa-srgan-x2-fidelity", "wa-srgan-x4-fidelity", "srgan-x4"])
def test_a_shipped_model_leaves_no_seam(name: str, section: U8) -> None:
    model = load_model(name, Engine("cpu", "fp32"), ensemble=True, tolerance=2.0)
    around, step = cut(section, model, 2, 3), max(model.window_px, 20)
    whole = model.upscale(around[None])[0]
    tile = model.upscale(around[None, step:, step:-step])[0]
    inside = slice(step * model.scale, -step * model.scale)
    assert np.array_equal(tile, whole[step * model.scale :, inside])


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_turned_image_gives_the_turned_result(make: Make, section: U8, turn: Turn) -> None:
    def turned(image: U8) -> U8:
        planes = torch.from_numpy(image).permute(2, 0, 1)[None]
        return np.ascontiguousarray(turn.there(planes)[0].permute(1, 2, 0).numpy())

    model, side = make(WIDE, 1.0), WIDE.window
    image = section[: 2 * side, : 3 * side]
    straight = turned(model.enlarge(image)).astype(int)
    assert np.abs(model.enlarge(turned(image)) - straight).max() <= 1


def test_without_it_a_turned_image_gives_something_else(make: Make, section: U8) -> None:
    model, image = make(WIDE, ensemble=False), section[: 2 * WIDE.window, : 2 * WIDE.window]
    straight = np.rot90(model.enlarge(image)).astype(int)
    assert np.abs(model.enlarge(np.rot90(image)) - straight).max() > 1


def test_there_are_eight_turns_and_each_has_a_way_back() -> None:
    x = torch.rand(1, 1, 3, 5)
    for turn in TURNS:
        assert torch.equal(turn.back(turn.there(x)), x)
    assert len({tuple(turn.there(x).flatten().tolist()) for turn in TURNS}) == 8


def test_the_name_says_that_it_is_an_ensemble() -> None:
    assert load_model("wa-srgan-x4", ensemble=True).label == "wa-srgan-x4 + ensemble"
    both = load_model("wa-srgan-x4", perception=0.5, ensemble=True, tolerance=2.0)
    assert both.label == "wa-srgan-x4, perception 0.5 + ensemble, consistent to 2"
