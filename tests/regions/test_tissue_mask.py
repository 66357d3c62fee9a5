"""Tissue is never missed for being pale; pen, frames, dust and glass cost little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Size
from slidesr.regions.tissue_detection import find_tissue
from slidesr.regions.tissue_mask import Tissue, all_tissue, read_mask

SLIDES = Path(__file__).parents[3] / "shared/data/slides"
UM = 20.0
SIZE = Size(480, 320)
GLASS = (242, 240, 243)
HE = (170, 90, 150)
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
ROUND = (slice(100, 220), slice(100, 200))  # inside the piece of tissue that `slide` paints
FAR = (slice(20, 300), slice(330, 460))  # glass, or what a test paints on it


def slide(glass: tuple[int, int, int] = GLASS, tissue: tuple[int, int, int] = HE) -> Image.Image:
    image = Image.new("RGB", (SIZE.width, SIZE.height), glass)
    ImageDraw.Draw(image).ellipse((60, 60, 240, 260), fill=tissue)
    return image


def scanned(image: Image.Image, sigma: float = 3) -> Pixels:
    noise = np.random.default_rng(0).normal(0, sigma, (image.height, image.width, 3))
    return np.rint(np.asarray(image) + noise).clip(0, 255).astype(np.uint8)


def found(image: Image.Image) -> Mask:
    return find_tissue(scanned(image), um_per_px=UM).mask


def stroke(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    ink = Image.new("L", image.size)
    ImageDraw.Draw(ink).line([(350, 60), (430, 150), (350, 240)], fill=235, width=14)
    blurred = ink.filter(ImageFilter.GaussianBlur(1))
    return Image.composite(Image.new("RGB", image.size, colour), image, blurred)


@pytest.mark.parametrize("glass", [GLASS, (213, 213, 210), (235, 232, 205), (254, 254, 254)])
@pytest.mark.parametrize(
    "tissue",
    [HE, (150, 105, 70), (140, 165, 200), (60, 50, 110)],
    ids=["h&e", "dab", "pale haematoxylin", "dense haematoxylin"],
)
def test_tissue_is_found_on_any_glass(
    glass: tuple[int, int, int], tissue: tuple[int, int, int]
) -> None:
    mask = found(slide(glass, tissue))
    assert mask[ROUND].all()
    assert not mask[FAR].any()


@pytest.mark.parametrize("paler", [(2, 8, 4), (4, 12, 8), (10, 10, 10)])
@pytest.mark.parametrize("glass", [GLASS, (213, 213, 210), (235, 232, 205)])
def test_pale_tissue_is_found(glass: tuple[int, int, int], paler: tuple[int, int, int]) -> None:
    pale = tuple(g - p for g, p in zip(glass, paler, strict=True))
    mask = found(slide(glass, (pale[0], pale[1], pale[2])))
    assert mask[ROUND].mean() > 0.99
    assert mask[FAR].mean() < 0.01


@pytest.mark.parametrize(
    "ink", [(35, 45, 140), (20, 120, 70), (200, 30, 40), (25, 25, 28), (110, 190, 140)]
)
def test_pen_on_glass_is_dropped_and_tissue_kept(ink: tuple[int, int, int]) -> None:
    drawn = scanned(stroke(slide(), ink))
    mask = find_tissue(drawn, um_per_px=UM).mask
    assert mask[ROUND].all()
    assert mask[FAR].mean() < 0.05  # the whole stroke is 0.13


def test_a_slide_of_the_colour_of_pen_is_tissue() -> None:
    assert found(slide(tissue=(35, 45, 140)))[ROUND].all()


@pytest.mark.parametrize("dark", [(0, 0, 0), (90, 90, 92)])
def test_scan_border_is_no_tissue(dark: tuple[int, int, int]) -> None:
    image = slide()
    ImageDraw.Draw(image).rectangle((0, 0, 479, 319), outline=dark, width=15)
    mask = found(image)
    assert mask[ROUND].all()
    assert mask.sum() < 1.2 * found(slide()).sum()
    assert not mask[FAR].any()


def test_white_holes_are_no_tissue_and_leave_pale_tissue() -> None:
    image = slide(tissue=(240, 232, 238))
    ImageDraw.Draw(image).rectangle((330, 0, 479, 319), fill=(255, 255, 255))
    tissue = find_tissue(scanned(image, sigma=1), um_per_px=UM)
    assert tissue.mask[ROUND].mean() > 0.99
    assert not tissue.mask[FAR].any()
    assert np.abs(np.subtract(tissue.glass, GLASS)).max() <= 2


def test_shading_is_no_tissue_and_hides_none() -> None:
    shade = 1 - 0.08 * np.linspace(0, 1, SIZE.width)[:, None] ** 2
    pixels = scanned(
        Image.fromarray((np.asarray(slide(tissue=(238, 229, 236))) * shade).astype("u1"))
    )
    mask = find_tissue(pixels, um_per_px=UM).mask
    assert mask[ROUND].mean() > 0.99
    assert mask[FAR].mean() < 0.01


def test_dust_is_dropped() -> None:
    image = slide()
    ImageDraw.Draw(image).point([(350, 100), (400, 200)], fill=(80, 80, 80))
    assert not found(image)[FAR].any()


@pytest.mark.parametrize("um", [None, 0.25, 20.0])
@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255)])
def test_empty_slide_holds_nothing(glass: tuple[int, int, int], um: float | None) -> None:
    empty = scanned(Image.new("RGB", (200, 150), glass))
    assert find_tissue(empty, um_per_px=um).share == 0


@pytest.mark.parametrize("um", [None, 0.25, 20.0])
def test_patch_without_glass_is_all_tissue(um: float | None) -> None:
    patch = find_tissue(scanned(Image.new("RGB", (64, 64), HE), sigma=20), um_per_px=um)
    assert patch.share == 1
    assert patch.glass == (255, 255, 255)


def test_tiny_and_huge_thumbnails_are_taken() -> None:
    assert find_tissue(np.full((1, 1, 3), 120, np.uint8), um_per_px=None).mask.shape == (1, 1)
    wide = np.full((30, 5000, 3), 240, np.uint8)
    assert find_tissue(wide, um_per_px=5.0).mask.shape == (12, 2048)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("CMU-1-Small-Region.svs", 0.4, 0.7), ("TCGA-CR-7395-01A-01-TS1.svs", 0.6, 0.8)],
)
def test_real_slides(name: str, least: float, most: float) -> None:
    if not (SLIDES / name).exists():
        pytest.skip("no real slides beside the checkout")
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(SLIDES / name) as opened:
        thumbnail = np.asarray(opened.get_thumbnail((512, 512)).convert("RGB"))
        um = 0.5 * opened.dimensions[0] / thumbnail.shape[1]
    tissue = find_tissue(thumbnail, um_per_px=um)
    assert least < tissue.share < most
    dark = thumbnail.min(axis=-1) < 150
    assert tissue.mask[dark].mean() > 0.98


def slow_cells(mask: Mask, box: Box, frame: Size, cell: int) -> list[list[bool]]:
    """The twin of `Tissue.cells`: every mask pixel against every cell, in whole numbers."""
    height, width = mask.shape

    def meets(x: int, y: int) -> bool:
        return any(
            mask[row, column]
            and column * frame.width < (x + cell) * width
            and (column + 1) * frame.width > x * width
            and row * frame.height < (y + cell) * height
            and (row + 1) * frame.height > y * height
            for row in range(height)
            for column in range(width)
        )

    xs, ys = range(box.x, box.right, cell), range(box.y, box.bottom, cell)
    return [[meets(x, y) for x in xs] for y in ys]


small = st.integers(1, 6)
place = st.integers(-3, 6)
frames = st.builds(Size, st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=100, deadline=None)
@given(small, small, st.integers(0, 2**36), frames, st.integers(1, 9), place, place, small, small)
def test_cells_equal_their_slow_twin(
    h: int, w: int, seed: int, frame: Size, cell: int, x: int, y: int, columns: int, rows: int
) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.3
    box = Box(x * cell, y * cell, columns * cell, rows * cell)
    cells = Tissue(mask, GLASS).cells(box, frame, cell)
    assert cells.tolist() == slow_cells(mask, box, frame, cell)


def test_cells_off_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="not on the grid of 4 px"):
        all_tissue().cells(Box(1, 0, 4, 4), Size(8, 8), cell=4)


def test_restricted_keeps_what_both_masks_hold_at_the_finer_grid() -> None:
    roi = np.zeros((4, 6), np.bool_)
    roi[1, 2:5] = True
    assert (all_tissue().restricted(roi).mask == roi).all()
    left = Tissue(np.array([[True, False]]), GLASS)
    assert np.argwhere(left.restricted(roi).mask).tolist() == [[1, 2]]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "I;16"])
def test_mask_image_is_read(tmp_path: Path, mode: str) -> None:
    marks = np.zeros((10, 20), np.uint8)
    marks[2:5, 3:7] = 255
    if mode == "P":
        image = Image.fromarray(marks // 255)
        image.putpalette([9, 9, 9, 200, 0, 0])
    elif mode == "I;16":
        image = Image.fromarray(marks.astype(np.uint16))
    else:
        image = Image.fromarray(marks).convert(mode)
    image.save(tmp_path / "mask.png")
    tissue = read_mask(tmp_path / "mask.png", Size(2000, 1000))
    assert (tissue.mask == (marks > 0)).all()


def test_bad_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(RefusedError, match=r"mask\.png: No such file"):
        read_mask(path, SIZE)
    path.write_bytes(b"no image")
    with pytest.raises(RefusedError, match=r"mask\.png: not a readable mask"):
        read_mask(path, SIZE)
    Image.new("L", (100, 90)).save(path)
    with pytest.raises(RefusedError, match="100 x 90 px is not the shape of the slide, 480 x 320"):
        read_mask(path, SIZE)
