"""The shipped weights in use: no window shows, and the demo ends with a slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from skimage.data import immunohistochemistry
from window_borders import border_ratio

from slidesr.cli import run
from slidesr.geometry import Box, Mpp, Pixels
from slidesr.model.device import Engine
from slidesr.model.model import Model, load_model
from slidesr.model.weights import list_models
from slidesr.slide import open_slide

REAL_SLIDES = Path(__file__).parents[3] / "shared/data/slides"


@pytest.fixture(
    scope="module",
    params=[spec.name for _, spec in list_models() if spec.generator.architecture == "WA-SRGAN"],
)
def model(request: pytest.FixtureRequest) -> Model:
    return load_model(request.param, Engine.choose("cpu"))


def regions(side: int) -> Iterator[tuple[Callable[[Box], Pixels], Box]]:
    """Places to look at: the embedded section, and real slides where there are any."""
    section: Pixels = immunohistochemistry()  # type: ignore[no-untyped-call]
    yield (lambda box: section[box.slices]), Box(64, 64, side, side)
    for name, x, y in (
        ("CMU-1-Small-Region.svs", 960, 1280),
        ("TCGA-CR-7395-01A-01-TS1.svs", 640, 640),
    ):
        if (REAL_SLIDES / name).exists():
            with open_slide(REAL_SLIDES / name) as slide:
                yield slide.frame().read, Box(x, y, side, side)


def test_window_borders_do_not_show(model: Model, request: pytest.FixtureRequest) -> None:
    """Gradient energy on window borders is what it is inside windows, to 2.5% in each region.

    One region of 384 px scatters by 1% either way, one of 192 px by up to 3% at x8.
    """
    if model.spec.name == "wa-srgan-x16":
        reason = "on slides at 0.25-0.5 um/px, which it was not trained for, some detail is missing"
        request.applymarker(pytest.mark.xfail(REAL_SLIDES.is_dir(), reason=reason, strict=True))
    side = 384 if model.scale <= 8 else 192  # the cost goes with the output
    for read, region in regions(side):
        assert border_ratio(model, read, region) == pytest.approx(1, abs=0.025)


@pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason=f"no slides in {REAL_SLIDES}")
@pytest.mark.parametrize("name", ["wa-srgan-x16-fidelity", "wa-srgan-x16"])
@pytest.mark.parametrize(
    ("slide", "mpp", "region"),
    [
        ("CMU-1-Small-Region.svs", 0.499, Box(36, 40, 192, 192)),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.25, Box(36, 24, 192, 160)),
    ],
)
def test_window_borders_do_not_show_at_the_pixel_size_of_x16(
    name: str, slide: str, mpp: float, region: Box
) -> None:
    upscaler = load_model(name, Engine.choose("cpu"))
    with open_slide(REAL_SLIDES / slide, mpp=Mpp(mpp, mpp)) as opened:
        read = opened.frame(mpp=4.0).read
        assert border_ratio(upscaler, read, region) == pytest.approx(1, abs=0.025)


class Stepped:
    """Bicubic, but every other window is brighter, as a bad attention might make it."""

    halo_px, window_px, batch_size = 2, 32, 1

    def __init__(self, scale: int, step: int) -> None:
        self.scale, self.step = scale, step  # in grey levels

    def upscale(self, tiles: Pixels) -> Pixels:
        low = tiles[0, 2:-2, 2:-2]
        cells = ((np.indices(low.shape[:2]) + self.window_px // 2) // self.window_px).sum(axis=0)
        brighter = (cells % 2 * self.step).repeat(self.scale, 0).repeat(self.scale, 1)
        size = low.shape[1] * self.scale, low.shape[0] * self.scale
        high = np.array(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))
        stepped: Pixels = (high.clip(0, 255 - self.step) + brighter[..., None]).astype(np.uint8)
        return stepped[None]


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_windows_that_differ_by_one_grey_level_would_be_seen(scale: int) -> None:
    read, region = next(regions(384))
    assert border_ratio(Stepped(scale, step=1), read, region) > 1.03


COMPARED = ("wa-srgan-wn-x4", "wa-srgan-bn-x4")
WA_SRGAN = [
    spec.name
    for _, spec in list_models()
    if spec.generator.architecture == "WA-SRGAN" and spec.name not in COMPARED
]  # what the one-budget comparison left is shipped as it came; a-srgan-x4 does show a grid, too


@pytest.mark.parametrize("name", WA_SRGAN)
def test_no_grid_of_sub_pixels_shows(name: str) -> None:
    """A pattern of period 2, which a pixel shuffle may write, stays below half a grey level."""
    section: Pixels = immunohistochemistry()  # type: ignore[no-untyped-call]
    made = load_model(name, Engine.choose("cpu")).enlarge(section[160:224, 160:224]).mean(axis=2)
    signs = np.where(np.arange(len(made)) % 2, -1, 1)
    for pattern in (signs, signs[:, None], signs * signs[:, None]):
        assert abs((made * pattern).mean()) < 0.5


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
