"""The shipped weights in use: no window shows, and the demo ends with a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
from PIL import Image
from skimage.data import immunohistochemistry
from window_borders import border_ratio

from slidesr.cli import run
from slidesr.geometry import Box
from slidesr.model import Engine, Model, list_models, load_model
from slidesr.slide import open_slide

_U8 = npt.NDArray[np.uint8]
REAL_SLIDES = Path(__file__).parents[2] / "shared/data/slides"


@pytest.fixture(scope="module", params=[spec.name for _, spec in list_models()])
def model(request: pytest.FixtureRequest) -> Model:
    return load_model(request.param, Engine.choose("cpu"))


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("", Box(64, 64, 384, 384)),
        ("CMU-1-Small-Region.svs", Box(960, 1280, 384, 384)),
        ("TCGA-CR-7395-01A-01-TS1.svs", Box(640, 640, 384, 384)),
    ],
)
def test_window_borders_do_not_show(name: str, region: Box, model: Model) -> None:
    """Gradient energy on window borders is within 2% of what it is inside windows."""
    if name and not (REAL_SLIDES / name).exists():
        pytest.skip("no real slides beside the checkout")
    if not name:
        section: _U8 = immunohistochemistry()  # type: ignore[no-untyped-call]
        ratio = border_ratio(model, lambda box: section[box.slices], region)
    else:
        with open_slide(REAL_SLIDES / name) as slide:
            ratio = border_ratio(model, slide.frame().read, region)
    assert ratio == pytest.approx(1, abs=0.02)


class Stepped:
    """An upscaler whose windows differ by four grey levels, as a bad attention might make them."""

    scale, halo_px, window_px, batch_size = 4, 2, 32, 1

    def upscale(self, tiles: _U8) -> _U8:
        low = tiles[:, 2:-2, 2:-2].clip(4, 250)
        cells = (np.indices(low.shape[1:3]) // self.window_px).sum(axis=0) % 2
        stepped: _U8 = low + (cells * 4).astype(np.uint8)[..., None]
        return stepped.repeat(4, 1).repeat(4, 2)


def test_windows_that_differ_would_be_seen() -> None:
    section: _U8 = immunohistochemistry()  # type: ignore[no-untyped-call]
    ratio = border_ratio(Stepped(), lambda box: section[box.slices], Box(64, 64, 384, 384))
    assert ratio > 1.05


@pytest.mark.slow
def test_the_demo_ends_with_a_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "-o", str(tmp_path / "demo")]) == 0
    said = capsys.readouterr().out
    result = tmp_path / "demo" / "sample.x4.ome.tif"
    assert str(result) in said
    with openslide.OpenSlide(result) as slide:
        assert slide.dimensions == (5120, 4096)
        assert slide.level_count == 5
    with Image.open(tmp_path / "demo" / "before-after.png") as picture:
        assert picture.size == (2 * 512 + 8, 512)
