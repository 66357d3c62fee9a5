"""The shipped weights in use: no window shows, and the demo ends with a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from skimage.data import immunohistochemistry
from window_borders import border_ratio

from slidesr.cli import run
from slidesr.geometry import Box
from slidesr.model import Engine, Model, load_model
from slidesr.resample import bicubic_up
from slidesr.slide import open_slide

REAL_SLIDES = Path(__file__).parents[2] / "shared/data/slides"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("wa-srgan-x4-fidelity", Engine.choose("cpu"))


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("", Box(0, 0, 512, 512)),
        ("CMU-1-Small-Region.svs", Box(320, 1280, 640, 640)),
        ("OS-1-detail.ome.tif", Box(64, 64, 512, 512)),
    ],
)
def test_window_borders_do_not_show(name: str, box: Box, model: Model) -> None:
    """Gradient energy on window borders is within 2% of elsewhere, bicubic's own ratio aside."""
    source: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    if not name:
        source = immunohistochemistry()  # type: ignore[no-untyped-call]
    elif not (REAL_SLIDES / name).exists():
        pytest.skip("no real slides beside the checkout")
    else:
        with open_slide(REAL_SLIDES / name) as slide:
            source = slide.frame().read(box)
    ours = border_ratio(model.enlarge(source), model.scale, model.window_px)
    control = border_ratio(bicubic_up(source, model.scale), model.scale, model.window_px)
    assert ours / control == pytest.approx(1, abs=0.02)


def test_a_grid_would_be_seen(model: Model) -> None:
    """The measure above does see a step of one grey level on window borders."""
    source: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = immunohistochemistry()  # type: ignore[no-untyped-call]
    image = bicubic_up(source, 4).clip(4, 250)
    cell = np.indices(image.shape[:2]) // (4 * model.window_px)
    stepped = image + (cell.sum(axis=0) % 2 * 4).astype(np.uint8)[..., None]
    assert border_ratio(stepped, 4, model.window_px) > 1.05 * border_ratio(
        image, 4, model.window_px
    )


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
