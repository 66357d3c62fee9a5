"""Which image of an OME-Zarr store is read, what becomes of its channels, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support.blocks import stained
from support.zarr_files import Image, bioformats2raw

from slidesr.cli import run
from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Mpp
from slidesr.imaging.window import Window
from slidesr.slide import Slide, open_slide
from slidesr.slide._stamp import stamp_of

PICTURE = stained(120, 90)
PLANES = PICTURE.transpose(2, 0, 1)
RGB = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
SLIDE = Image([PLANES, PLANES[:, ::2, ::2]], channels=RGB, scale=(0.5, 0.5))
LABEL = Image([255 - PLANES[:, :40, :40]], axes="tczyx", unit=None, scale=(1.0, 1.0))


def shown(slide: Slide) -> NDArray[np.uint8]:
    return slide.frame().read(slide.size.box)


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as error:
        open_slide(path)
    text = str(error.value)
    assert "\n" not in text
    assert "Error" not in text  # no name of Python's
    return text


# Channels


def test_blue_first_is_put_into_order(tmp_path: Path) -> None:
    path = replace(SLIDE, levels=[PLANES[::-1]], channels=RGB[::-1]).write(tmp_path / "a.zarr")
    with open_slide(path) as slide:
        assert np.array_equal(shown(slide), PICTURE)
        assert slide.choice.conversions == ("BGR to RGB",)


def test_channels_without_words_are_taken_as_rgb_and_told(tmp_path: Path) -> None:
    path = replace(SLIDE, channels=None).write(tmp_path / "a.zarr")
    with open_slide(path) as slide:
        assert np.array_equal(shown(slide), PICTURE)
        assert slide.choice.conversions == ("three unnamed channels taken as RGB",)


def test_fluorescence_is_refused_with_its_names(tmp_path: Path) -> None:
    dyes = [("DAPI", "0000FF"), ("FITC", "00FF00"), ("TRITC", "FF0000")]
    path = replace(SLIDE, channels=dyes).write(tmp_path / "a.zarr")
    assert "(DAPI 0000FF, FITC 00FF00, TRITC FF0000) are not red, green" in refusal(path)


@pytest.mark.parametrize(
    "channels",
    [
        [("Blue", "FF0000"), ("Green", "00FF00"), ("Red", "0000FF")],  # one says otherwise
        [("", "FF0000"), ("", "FF0000"), ("", "0000FF")],
        [("", "00FFFF"), ("", "FF00FF"), ("", "FFFF00")],
        [("", "808080")] * 3,
        [("", "red"), ("", "green"), ("", "blue")],  # no colours of omero
        RGB[:2],
    ],
)
def test_channels_that_are_not_plainly_rgb_are_refused(channels: Any, tmp_path: Path) -> None:
    path = replace(SLIDE, channels=channels).write(tmp_path / "a.zarr")
    assert "channels" in refusal(path)


@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
def test_one_channel_is_grey_unless_it_is_coloured(axes: str, tmp_path: Path) -> None:
    grey = Image([PLANES[:1]], axes=axes, channels=[("a", "808080")])
    with open_slide(grey.write(tmp_path / "a.zarr")) as slide:
        assert np.array_equal(shown(slide), np.repeat(PICTURE[..., :1], 3, axis=2))
        assert slide.choice.conversions == ("grey to RGB",)
    coloured = replace(grey, channels=[("DAPI", "0000FF")])
    assert "as in fluorescence" in refusal(coloured.write(tmp_path / "b.zarr"))


def test_transparency_is_laid_over_white_and_another_fourth_left_out(tmp_path: Path) -> None:
    alpha = np.zeros((1, 90, 120), np.uint8)
    alpha[:, :, 60:] = 255
    four = replace(SLIDE, levels=[np.concatenate([PLANES, alpha])])
    path = replace(four, channels=[*RGB, ("Alpha", None)]).write(tmp_path / "a.zarr")
    with open_slide(path) as slide:
        assert (shown(slide)[:, :60] == 255).all()
        assert np.array_equal(shown(slide)[:, 60:], PICTURE[:, 60:])
    path = replace(four, channels=[*RGB, ("IR", "FFFFFF")]).write(tmp_path / "b.zarr")
    with open_slide(path) as slide:
        assert np.array_equal(shown(slide), PICTURE)
        assert slide.choice.left_out == ("channel 3 (IR FFFFFF)",)
    path = replace(four, channels=None).write(tmp_path / "c.zarr")
    assert "are not red, green and blue" in refusal(path)


# Layouts


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_largest_image_of_bioformats2raw_is_read(
    version: str, zipped: bool, tmp_path: Path
) -> None:
    kind: dict[str, Any] = {"version": version, "zarr_format": 2 if version == "0.4" else 3}
    images = [replace(each, **kind) for each in (LABEL, SLIDE)]
    path = bioformats2raw(tmp_path / "a.zarr", images, ["label image", "case 7"])
    if zipped:
        path = Path(shutil.make_archive(str(path), "zip", path))
    with open_slide(path) as slide:
        assert np.array_equal(shown(slide), PICTURE)
        assert slide.mpp == Mpp(0.5, 0.5)
        assert len(slide.levels) == 2
        assert (slide.choice.image, slide.choice.why) == ("case 7 (1)", "the largest of 2 images")
        assert slide.choice.left_out == ("label image (0), 40 x 40 px",)


def test_another_image_that_is_left_out_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", [LABEL, SLIDE, LABEL], ["macro", "a", "region 2"])
    open_slide(path).close()
    warned = [each.getMessage() for each in caplog.records]
    assert warned == ["a.zarr: holds several images; a (1) is read, not region 2 (2)"]


def test_hostile_xml_beside_the_images_gives_no_names(tmp_path: Path) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", [SLIDE, LABEL], ["a", "b"])
    entity = '<!DOCTYPE O [<!ENTITY e SYSTEM "file:///etc/passwd">]><O><Image Name="&e;"/></O>'
    for text in (entity, "<", ""):
        (path / "OME/METADATA.ome.xml").write_text(text)
        with open_slide(path) as slide:
            assert slide.choice.image == "0"


def test_twins_and_broken_images_of_bioformats2raw_are_refused(tmp_path: Path) -> None:
    twins = bioformats2raw(tmp_path / "a.zarr", [SLIDE, SLIDE])
    assert "several images of 120 x 90 px, 0 and 1, and nothing says which" in refusal(twins)
    broken = bioformats2raw(tmp_path / "b.zarr", [SLIDE, LABEL])
    (broken / "1/.zattrs").write_text("{}")
    assert "its image 1: its list of images (multiscales) is empty" in refusal(broken)
    empty = bioformats2raw(tmp_path / "c.zarr", [SLIDE])
    shutil.rmtree(empty / "0")
    assert "but no image" in refusal(empty)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"plate": {"wells": [{"path": "A/1"}]}}, "a plate of wells"),
        ({"plate": {}, "bioformats2raw.layout": 3}, "a plate of wells"),
        ({"well": {"images": [{"path": "0"}]}}, "a well of a plate"),
        ({"labels": ["cells"]}, "label images"),
        ({}, "no multiscales"),
        ({"ome": {"version": "0.5"}}, "no multiscales"),
        ({"ome": {"version": "0.5", "plate": {}}}, "a plate of wells"),
        ({"multiscales": None}, "is empty"),
        ({"multiscales": ["x"]}, "not a list of objects"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(
    words: dict[str, Any], says: str, tmp_path: Path
) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs.update(words)
    assert says in refusal(tmp_path / "a.zarr")
    assert run(["info", str(tmp_path / "a.zarr")]) == 2


def test_a_bare_array_and_a_zip_of_a_folder_are_named(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=PLANES, chunks=(1, 64, 64))
    assert "a bare array" in refusal(tmp_path / "a.zarr")
    SLIDE.write(tmp_path / "b/b.zarr")
    zipped = Path(shutil.make_archive(str(tmp_path / "b.zarr"), "zip", tmp_path / "b"))
    assert "no group of Zarr is at the top of the zip" in refusal(zipped)


def changed(path: Path, **change: Any) -> Path:
    """Changes the words of the first multiscale."""
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0] |= change
    (path / ".zattrs").write_text(json.dumps(attributes))
    return path


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", "0.4-dev", "0.5.2"])
def test_versions_that_are_known_are_read(version: str, tmp_path: Path) -> None:
    path = replace(SLIDE, axes="tczyx", version=version).write(tmp_path / "a.zarr")
    with open_slide(path) as slide:
        assert np.array_equal(shown(slide), PICTURE)
        assert slide.mpp == (Mpp(0.5, 0.5) if version > "0.4" else None)


def test_versions_that_are_unknown_and_axes_that_are_not_implied_are_refused(
    tmp_path: Path,
) -> None:
    later = replace(SLIDE, version="0.6", zarr_format=3).write(tmp_path / "a.zarr")
    assert "its NGFF version is 0.6" in refusal(later)
    flat = replace(SLIDE, version="0.2").write(tmp_path / "b.zarr")  # three dimensions, not five
    assert "its axes have no names" in refusal(flat)
    unnamed = changed(replace(SLIDE, axes="tczyx").write(tmp_path / "c.zarr"), axes=None)
    assert "its axes have no names" in refusal(unnamed)


def test_the_first_of_several_multiscales_is_read(tmp_path: Path) -> None:
    path = changed(SLIDE.write(tmp_path / "a.zarr"), name="one")
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"].append(attributes["multiscales"][0] | {"name": "two"})
    (path / ".zattrs").write_text(json.dumps(attributes))
    with open_slide(path) as slide:
        choice = slide.choice
    assert (choice.image, choice.why) == ("one", "the first of 2 multiscales")
    assert choice.left_out == ("two",)


def test_planes_label_images_and_unlike_levels_are_refused(tmp_path: Path) -> None:
    stack = replace(SLIDE, axes="tczyx", planes={"z": 5}).write(tmp_path / "a.zarr")
    assert "its axis z has 5 planes" in refusal(stack)
    label = Image([PLANES[:1]]).write(tmp_path / "b.zarr")
    zarr.open_group(label, mode="r+").attrs["image-label"] = {}
    assert "a label image" in refusal(label)
    deeper = replace(SLIDE, levels=[PLANES, PLANES[:, ::2, ::2].astype(np.uint16)])
    assert "level 1 differs" in refusal(deeper.write(tmp_path / "c.zarr"))
    fewer = replace(SLIDE, levels=[PLANES, PLANES[:1, ::2, ::2]])
    assert "level 1 differs" in refusal(fewer.write(tmp_path / "d.zarr"))


def test_dimensions_that_contradict_the_axes_are_refused(tmp_path: Path) -> None:
    square = Image([PLANES[:, :90, :90]], version="0.5", zarr_format=3, axes="cyx")
    path = square.write(tmp_path / "a.zarr")
    document = json.loads((path / "0/zarr.json").read_text())
    document["dimension_names"] = ["c", "x", "y"]
    (path / "0/zarr.json").write_text(json.dumps(document))
    assert "its axes are c, y, x, but an array calls them c, x, y" in refusal(path)


# Pixel size


@pytest.mark.parametrize("unit", ["µm", "\N{GREEK SMALL LETTER MU}m", "um", "Micron", "micrometre"])
def test_micrometres_by_any_name(unit: str, tmp_path: Path) -> None:
    with open_slide(replace(SLIDE, unit=unit).write(tmp_path / "a.zarr")) as slide:
        assert slide.mpp == Mpp(0.5, 0.5)


@pytest.mark.parametrize(
    ("unit", "says"), [("parsec", "the unit 'parsec'"), (None, "its scale has no unit")]
)
def test_a_scale_without_a_known_unit_is_warned_of(
    unit: str | None, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_slide(replace(SLIDE, unit=unit).write(tmp_path / "a.zarr")) as slide:
        assert slide.mpp is None
    assert says in caplog.text
    caplog.clear()
    open_slide(replace(SLIDE, unit=None, scale=(1, 1)).write(tmp_path / "b.zarr")).close()
    assert not caplog.records


def test_other_transformations_leave_the_pixel_size_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned = [{"type": "affine", "affine": []}]
    path = changed(SLIDE.write(tmp_path / "a.zarr"), coordinateTransformations=turned)
    with open_slide(path) as slide:
        assert slide.mpp is None
    assert "transformations besides scale" in caplog.text


# 16 bits

DEEP = replace(SLIDE, levels=[each.astype(np.uint16) * 16 for each in SLIDE.levels])


def test_16_bits_need_a_window(tmp_path: Path) -> None:
    path = DEEP.write(tmp_path / "a.zarr")
    assert "--window auto" in refusal(path)
    with open_slide(path, window="auto") as slide:
        assert slide.window == Window(0, 4095)
        assert np.abs(shown(slide).astype(int) - PICTURE).max() <= 1
    with open_slide(path, window=Window(2500, 2501)) as slide:
        assert set(np.unique(shown(slide))) == {0, 255}
    assert stamp_of(Path(f"file://{path}"))[1]  # needs no window
    shallow = SLIDE.write(tmp_path / "b.zarr")
    open_slide(shallow, window="auto").close()
    with pytest.raises(RefusedError, match="8 bits"):
        open_slide(shallow, window=Window(0, 9))


@pytest.mark.parametrize("level", [0, 1])
def test_an_automatic_window_that_is_too_small_is_an_error(level: int, tmp_path: Path) -> None:
    """Level 0 has a bright pixel that level 1 skips."""
    bright = DEEP.levels[0].copy()
    bright[1, 1, 1] = 5000
    path = replace(DEEP, levels=[bright, DEEP.levels[1]]).write(tmp_path / "a.zarr")
    with open_slide(path, window="auto") as slide:
        if level:
            slide.frame(level=1).read(slide.levels[1].size.box)
            return
        with pytest.raises(SlidesrError, match="--window 0,16383"):
            shown(slide)
    with open_slide(path, window=Window(0, 4095)) as slide:
        assert shown(slide)[1, 1, 1] == 255


def test_an_automatic_window_looks_at_chunks_spread_over_a_large_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidesr.slide.sources.by_zarr._MOST_CHUNKS", 3)
    bright = DEEP.levels[0].copy()
    bright[:, -1, -1] = 60_000  # in the last chunk, which is always one of them
    path = replace(DEEP, levels=[bright]).write(tmp_path / "a.zarr")
    with open_slide(path, window="auto") as slide:
        assert slide.window == Window(0, 65_535)


def test_a_broken_chunk_tells_an_automatic_window_nothing(tmp_path: Path) -> None:
    path = replace(DEEP, levels=DEEP.levels[:1]).write(tmp_path / "a.zarr")
    (path / "0/0/0/0").write_bytes(b"spoilt")
    with open_slide(path, window="auto", fill=True) as slide:
        assert slide.window == Window(0, 4095)
        assert (shown(slide)[:16, :16] == 255).all()
