"""What is made consistent shrinks to its source, and is the same in any tile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidesr.errors import RefusedError
from slidesr.imaging.resample import bicubic_down, through_jpeg
from slidesr.model.device import Engine
from slidesr.model.model import Model, load_model
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import shrunk

U8 = NDArray[np.uint8]
Make = Callable[[GeneratorSpec, float | None], Model]

# Windows as large as the shipped models': on smaller maps a CPU's kernels depend on the width.
SPECS = [
    GeneratorSpec(scale, "weight", 32, bicubic_skip=True, channels=8, blocks=1)
    for scale in (2, 4, 8)
]


@pytest.fixture(scope="module")
def make(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
    trained_looking: Callable[[GeneratorSpec], Generator],
) -> Make:
    def made(spec: GeneratorSpec, tolerance: float | None) -> Model:
        return Model(
            model_spec(spec), trained_looking(spec), "", Engine("cpu", "fp32"), tolerance=tolerance
        )

    return made


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_shrinking_is_pillows(section: U8, scale: int) -> None:
    high = torch.from_numpy(section).permute(2, 0, 1)[None].float()
    low = shrunk(high, scale)[0].permute(1, 2, 0).numpy()
    assert np.abs(low - bicubic_down(section, scale)).max() < 1.01  # Pillow rounds between axes


@pytest.mark.parametrize("spec", SPECS[:2])
def test_what_is_made_shrinks_to_its_source(section: U8, make: Make, spec: GeneratorSpec) -> None:
    low = bicubic_down(section[:256, :256], spec.scale)

    def off(tolerance: float | None) -> NDArray[np.int_]:
        made = make(spec, tolerance).enlarge(low)
        return np.abs(bicubic_down(made, spec.scale).astype(int) - low)[4:-4, 4:-4]

    plain, mended, loose = off(None), off(0.0), off(5.0)
    assert plain.mean() > 3
    assert mended.mean() < 0.35 * plain.mean()
    assert mended.mean() < loose.mean() < plain.mean()
    assert np.percentile(loose, 95) <= 5 + 3


@settings(max_examples=15, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    rows=st.integers(1, 2),
    columns=st.integers(1, 3),
    down=st.integers(0, 1),
    right=st.integers(0, 2),
    tolerance=st.sampled_from([0.0, 3.0]),
)
def test_a_tile_is_the_same_in_any_company(
    make: Make,
    section: U8,
    spec: GeneratorSpec,
    rows: int,
    columns: int,
    down: int,
    right: int,
    tolerance: float,
) -> None:
    model = make(spec, tolerance)
    halo, window = model.halo_px, model.window_px
    h, w = (rows + down) * window, (columns + right) * window
    around = np.tile(section, (1, 2, 1))[100 : 100 + h + 2 * halo, 50 : 50 + w + 2 * halo]
    y, x = down * window, right * window
    whole = model.upscale(around[None])[0]
    tile = model.upscale(around[None, y:, x:])[0]
    assert np.array_equal(tile, whole[y * spec.scale :, x * spec.scale :])


def test_a_tolerance_keeps_jpegs_errors_out(section: U8) -> None:
    """Without one, what JPEG did to the source comes back into the result."""
    high = section[256:, :256]
    low = through_jpeg(bicubic_down(high, 4), 50)
    strict, loose = (
        load_model("wa-srgan-x4-fidelity", tolerance=tolerance).enlarge(low).astype(int)
        for tolerance in (0.0, 4.0)
    )
    assert np.square(loose - high).mean() < np.square(strict - high).mean()


def test_the_name_says_that_it_is_consistent() -> None:
    assert load_model("wa-srgan-x4", tolerance=0.0).label == "wa-srgan-x4, consistent"
    both = load_model("wa-srgan-x4", perception=0.5, tolerance=2.5)
    assert both.spec.name == "wa-srgan-x4"
    assert both.label == "wa-srgan-x4, perception 0.5, consistent to 2.5"


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_an_odd_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(RefusedError, match="grey levels"):
        load_model("wa-srgan-x4", tolerance=tolerance)
