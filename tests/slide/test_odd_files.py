"""Sound files of unusual kinds show the right picture, or are refused in one line."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.odd_files import ODD_FILES, PLANES, TILED, OddFile, T
from support.tiffs import turned, written
from tifffile import TiffWriter

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Size
from slidesr.slide import open_slide

_REDUCED: dict[str, Any] = {"subfiletype": 1}
READ = [file for file in ODD_FILES if not file.is_refused]
REFUSED = [file for file in ODD_FILES if file.is_refused]
SEVERAL = [file for file in READ if file.image]


def named(file: OddFile) -> str:
    return file.name


def test_no_two_files_have_one_name() -> None:
    assert max(Counter(map(named, ODD_FILES)).values()) == 1


@pytest.mark.parametrize("file", READ, ids=named)
def test_the_picture_is_right(tmp_path: Path, file: OddFile) -> None:
    assert isinstance(file.right, np.ndarray)
    height, width, _ = file.right.shape
    with open_slide(file.write(tmp_path), window=file.window) as slide:
        assert slide.size == Size(width, height)
        assert (slide.mpp and (slide.mpp.x, slide.mpp.y)) == (
            file.mpp and pytest.approx(file.mpp, rel=1e-4)
        )
        whole = slide.frame().read(slide.size.box)
        box = Box(50, 37, 93, 71)  # across tiles and strips
        np.testing.assert_array_equal(slide.frame().read(box), whole[box.slices])
    difference = np.abs(whole.astype(int) - file.right)
    assert difference.max() <= file.tolerance


@pytest.mark.parametrize("file", REFUSED, ids=named)
def test_what_has_no_picture_is_refused_in_one_line(tmp_path: Path, file: OddFile) -> None:
    assert isinstance(file.right, str)
    path = file.write(tmp_path)
    with pytest.raises(RefusedError, match=file.right) as caught:
        open_slide(path, window=file.window)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()


@pytest.mark.parametrize("file", SEVERAL, ids=named)
def test_which_image_is_read_and_which_are_not_is_told(tmp_path: Path, file: OddFile) -> None:
    with open_slide(file.write(tmp_path)) as slide:
        assert slide.choice.image == file.image
        assert slide.choice.why
        (other,) = slide.choice.left_out
        assert any(name in other.lower() for name in ("macro", "label", "thumbnail", "overview"))


def test_levels_that_are_images_of_their_own_are_not_left_out(tmp_path: Path) -> None:
    (file,) = (each for each in READ if each.name == "levels-as-ome-images.ome.tif")
    with open_slide(file.write(tmp_path)) as slide:
        assert len(slide.levels) == 2
        assert slide.choice.left_out == ()


def _green(width: int, height: int) -> Any:
    return np.full((height, width, 3), (0, 200, 0), np.uint8)


GREEN = _green(100, 75)  # half the slide, and no part of it
BESIDES: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "reduced": [(T, {}), (GREEN, {"subfiletype": 1, "description": "Label"})],
    "full": [(T, {}), (GREEN, {"description": "label"})],
    "larger": [(np.tile(GREEN, (4, 4, 1)), {"description": "macro"}), (T, {})],
    "reduced-macro": [(T, {}), (GREEN, {"description": "macro"}), (GREEN[::2, ::2], _REDUCED)],
    "subifd": [(T, {"subifds": 1}), (GREEN, {"subfiletype": 1, "description": "label"})],
    "grey": [(T, {}), (GREEN[..., 0], {"photometric": "minisblack", **_REDUCED})],
    "other-reduced": [(T, {}), (_green(120, 90), {}), (_green(60, 45), _REDUCED)],
}


@pytest.mark.parametrize("kind", BESIDES)
def test_another_image_is_no_level(tmp_path: Path, kind: str) -> None:
    """A label is none, though its sides are a fraction of the slide's; nor are its own levels."""
    path = tmp_path / "a.tif"
    with TiffWriter(path) as tiff:
        for samples, tags in BESIDES[kind]:
            how = {"photometric": "rgb", "metadata": None, **TILED, **tags}
            tiff.write(np.ascontiguousarray(samples), **how)
    with open_slide(path) as slide:
        assert [level.size for level in slide.levels] == [Size(200, 150)]
        np.testing.assert_array_equal(slide.frame().read(slide.size.box), T)


def test_reduced_pages_behind_channels_are_no_level_of_all(tmp_path: Path) -> None:
    """Of red, green and blue in pages, followed by their smaller versions."""
    path, metadata = tmp_path / "a.ome.tif", {"axes": "CYX", "Channel": {"Name": [*"RGB"]}}
    how: dict[str, Any] = {"photometric": "minisblack", **TILED}
    with TiffWriter(path, ome=True) as tiff:
        tiff.write(PLANES, metadata=metadata, **how)
        for plane in PLANES:
            tiff.write(np.ascontiguousarray(plane[::2, ::2]), metadata=None, **how, **_REDUCED)
    with open_slide(path) as slide:
        assert [level.size for level in slide.levels] == [Size(200, 150)]
        np.testing.assert_array_equal(slide.frame().read(slide.size.box), T)


def test_a_level_in_a_subifd_is_not_mistaken_for_a_page_of_its_size(tmp_path: Path) -> None:
    path, half = tmp_path / "a.tif", np.ascontiguousarray(T[::2, ::2])
    how: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": "zlib", **TILED}
    with TiffWriter(path) as tiff:
        tiff.write(T, subifds=1, **how)
        tiff.write(half, **how, **_REDUCED)
        tiff.write(GREEN, description="label", **how, **_REDUCED)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.frame(level=1).read(slide.levels[1].size.box), half)


def test_reduced_pages_are_levels_of_the_image_before_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    half = np.ascontiguousarray(T[::2, ::2])
    with TiffWriter(path) as tiff:
        for samples, tags in ((T, {}), (half, _REDUCED), (half[::2, ::2], _REDUCED)):
            tiff.write(samples, photometric="rgb", metadata=None, **TILED, **tags)
        tiff.write(GREEN[:70], photometric="rgb", metadata=None, **TILED)
    with open_slide(path) as slide:
        assert [str(level.size) for level in slide.levels] == ["200 x 150", "100 x 75", "50 x 38"]
        np.testing.assert_array_equal(slide.frame(level=1).read(slide.levels[1].size.box), half)


@pytest.mark.parametrize("number", [1, 6])
def test_a_long_and_narrow_slide_keeps_its_levels(tmp_path: Path, number: int) -> None:
    """A biopsy of 125 x 1600 px: rounding its short side up is half a percent at level 2."""
    sides = [(125, 1600), (63, 800), (32, 400), (16, 200)]
    levels = [np.full((height, width, 3), width, np.uint8) for width, height in sides]
    path = tmp_path / "a.tif"
    path.write_bytes(written(levels, orientation=number, photometric="rgb", **TILED))
    with open_slide(path) as slide:
        found = [(level.size.width, level.size.height) for level in slide.levels]
    assert found == [size if number == 1 else size[::-1] for size in sides]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_is_what_pillow_shows(orientation: int) -> None:
    exif, file = Image.Exif(), BytesIO()
    exif[274] = orientation
    Image.fromarray(T).save(file, "PNG", exif=exif)
    shown = ImageOps.exif_transpose(Image.open(file))
    np.testing.assert_array_equal(turned(T, orientation), np.array(shown))
