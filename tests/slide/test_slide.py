"""Slides: every source gives the same pixels for every box, and refuses what it cannot read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.slides import camelyon_style, pyramid, subifd_ome, tissue

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Mpp, Size
from slidesr.slide import Frame, Slide, open_slide
from slidesr.slide._frame import read_mirrored

REAL_SLIDES = Path(__file__).parents[3] / "shared/data/slides"
SIZE = Size(1001, 730)

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def image() -> Pixels:
    return tissue(SIZE.width, SIZE.height)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, image: Pixels) -> Path:
    """One slide for each source."""
    path = tmp_path_factory.mktemp("slides")
    camelyon_style(path / "camelyon.tif", image, 0.25, tile=256)
    subifd_ome(path / "subifd.ome.tif", image, 0.25)
    tifffile.imwrite(
        path / "plain.tif", image, photometric="rgb", resolution=(4e4, 4e4), resolutionunit=3
    )
    return path


@pytest.fixture(scope="module", params=["camelyon.tif", "subifd.ome.tif", "plain.tif"])
def slide(request: pytest.FixtureRequest, folder: Path) -> Iterator[Slide]:
    with open_slide(folder / request.param) as slide:
        yield slide


def real(name: str) -> Path:
    if not REAL_SLIDES.is_dir():
        pytest.skip("no real slides beside the checkout")
    return REAL_SLIDES / name


# What a slide says of itself


def test_camelyon_style_is_read_by_openslide(folder: Path) -> None:
    with open_slide(folder / "camelyon.tif") as slide:
        assert slide.vendor == "generic-tiff"
        assert slide.size == SIZE
        assert [level.size for level in slide.levels] == [
            Size(1001, 730),
            Size(501, 365),
            Size(251, 183),
            Size(126, 92),
        ]
        assert slide.mpp is not None
        assert slide.mpp.mean == pytest.approx(0.25)
        assert slide.magnification is None


def test_a_pyramid_in_subifds_is_seen(folder: Path, image: Pixels) -> None:
    with open_slide(folder / "subifd.ome.tif") as slide:
        assert slide.vendor == "ome-tiff"
        assert slide.mpp == Mpp(0.25, 0.25)
        for index, level in enumerate(pyramid(image)):
            frame = slide.frame(level=index)
            np.testing.assert_array_equal(frame.read(frame.size.box), level)


def test_a_png_says_nothing_of_its_pixel_size(tmp_path: Path, image: Pixels) -> None:
    Image.fromarray(image).save(tmp_path / "a.png", dpi=(72, 72))
    with open_slide(tmp_path / "a.png") as slide:
        assert (slide.vendor, slide.size, slide.mpp) == ("png", SIZE, None)


def test_colour_profiles_are_kept(tmp_path: Path, image: Pixels) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(image).save(tmp_path / "a.jpg", icc_profile=profile)
    for name, tile in (("tiled.tif", (256, 256)), ("plain.tif", None)):
        tifffile.imwrite(
            tmp_path / name, image, photometric="rgb", iccprofile=profile, tile=tile, metadata=None
        )
    for name in ("a.jpg", "tiled.tif", "plain.tif"):
        with open_slide(tmp_path / name) as slide:
            assert slide.icc_profile == profile


@pytest.mark.parametrize("tile", [(256, 256), None], ids=["tiled", "plain"])
@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        (20_000, "CENTIMETER", 0.5),
        (50_800, "INCH", 0.5),
        (72, "INCH", None),
        (300, "INCH", None),
        (1e8, "CENTIMETER", None),
        (20_000, "NONE", None),
    ],
)
def test_pixel_size_from_resolution_tags(
    tmp_path: Path, tile: tuple[int, int] | None, resolution: float, unit: str, mpp: float | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        tissue(300, 300),
        photometric="rgb",
        tile=tile,
        resolution=(resolution, resolution),
        resolutionunit=unit,
        metadata=None,
    )
    with open_slide(path) as slide:
        assert (slide.mpp and slide.mpp.mean) == (mpp and pytest.approx(mpp))


@pytest.mark.parametrize("size_um", ["0", "-0.5", "INF", "1e308", "nonsense"])
def test_an_absurd_ome_pixel_size_is_none(
    tmp_path: Path, size_um: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.ome.tif"
    _write_ome(path, f'PhysicalSizeX="{size_um}" PhysicalSizeY="{size_um}"')
    with caplog.at_level(logging.WARNING), open_slide(path) as slide:
        assert slide.mpp is None


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nm", 0.0005), ("µm", 0.5), ("μm", 0.5), ("mm", 500), ("pixel", None)]
)
def test_ome_units(tmp_path: Path, unit: str, mpp: float | None) -> None:
    path = tmp_path / "a.ome.tif"
    sizes = [f'PhysicalSize{axis}="0.5" PhysicalSize{axis}Unit="{unit}"' for axis in "XY"]
    _write_ome(path, " ".join(sizes))
    with open_slide(path) as slide:
        expected = Mpp(mpp, mpp) if mpp and mpp > 0.01 else None
        assert slide.mpp == expected


def test_ome_magnification_survives_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    _write_ome(
        path,
        'PhysicalSizeX="0.5" PhysicalSizeY="0.5"',
        '<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="20"/>'
        "</Instrument>",
        '<ObjectiveSettings ID="Objective:0"/>',
    )
    with open_slide(path) as slide:
        assert (slide.vendor, slide.magnification) == ("generic-tiff", 20)


def _write_ome(path: Path, sizes: str, instrument: str = "", settings: str = "") -> None:
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'{instrument}<Image ID="Image:0">{settings}<Pixels ID="Pixels:0" Type="uint8"'
        ' DimensionOrder="XYCZT" SizeX="256" SizeY="256" SizeC="3" SizeZ="1" SizeT="1"'
        f' Interleaved="true" {sizes}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(
        path,
        tissue(256, 256),
        tile=(128, 128),
        compression="zlib",
        photometric="rgb",
        description=xml.encode(),
        metadata=None,
    )


# Pixels

FRAMES: list[dict[str, Any]] = [{"level": 0}, {"mpp": 0.43}, {"mpp": 1.0}, {"mpp": 9.0}]
coordinate, side = st.integers(-2500, 3500), st.integers(0, 120)
boxes = st.builds(Box, coordinate, coordinate, side, side)


@pytest.fixture(scope="module", params=FRAMES, ids=str)
def frame_and_whole(request: pytest.FixtureRequest, slide: Slide) -> tuple[Frame, Pixels]:
    frame = slide.frame(**request.param)
    return frame, frame.read(frame.size.box)


@given(box=boxes)
@settings(max_examples=40, deadline=None)
def test_any_box_is_a_part_of_the_mirrored_whole(
    frame_and_whole: tuple[Frame, Pixels], box: Box
) -> None:
    frame, whole = frame_and_whole
    np.testing.assert_array_equal(frame.read(box), _cut_from_mirrored(whole, box))


@given(
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    box=st.builds(Box, *[st.integers(-40, 40)] * 2, *[st.integers(0, 30)] * 2),
)
def test_tiny_images_are_mirrored_many_times(width: int, height: int, box: Box) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = read_mirrored(lambda inside: image[inside.slices], Size(width, height), box)
    np.testing.assert_array_equal(pixels, _cut_from_mirrored(image, box))


def _cut_from_mirrored(image: Pixels, box: Box) -> Pixels:
    """The reference: the whole image padded by numpy, then cut."""
    height, width, _ = image.shape
    left, top = max(0, -box.x), max(0, -box.y)
    right, bottom = max(0, box.right - width), max(0, box.bottom - height)
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)), "symmetric")
    rows, columns = box.moved(left, top).slices
    return padded[rows, columns]


def test_another_slide_object_and_many_threads_give_the_same(folder: Path) -> None:
    cells = list(Box(-100, -100, 900, 700).cells(150))
    for name in ("camelyon.tif", "subifd.ome.tif", "plain.tif"):
        with open_slide(folder / name) as one, open_slide(folder / name) as other:
            expected = [one.frame(mpp=0.6).read(cell) for cell in cells]
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(other.frame(mpp=0.6).read, reversed(cells)))
        for want, got in zip(expected, reversed(found), strict=True):
            np.testing.assert_array_equal(got, want)


def test_resampling_has_no_seams_and_no_shift(folder: Path, image: Pixels) -> None:
    """Cells agree with Pillow's resampling of the whole image at once."""
    with open_slide(folder / "plain.tif") as slide:
        frame = slide.frame(mpp=0.375)
        size, ratio = (frame.size.width, frame.size.height), 1.5
        reach = (0, 0, size[0] * ratio, size[1] * ratio)
        whole = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=reach)
        difference = np.abs(frame.read(frame.size.box).astype(int) - np.asarray(whole))
    assert difference.max() <= 2  # a tie may be rounded either way, across and then down
    assert difference.mean() < 0.02


def test_holes_show_the_background(tmp_path: Path) -> None:
    hole = np.zeros((40, 40, 4), np.uint8)
    hole[:20] = (200, 0, 100, 255)
    Image.fromarray(hole).save(tmp_path / "a.png")
    tifffile.imwrite(
        tmp_path / "a.ome.tif", hole, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16)
    )
    for name in ("a.png", "a.ome.tif"):
        with open_slide(tmp_path / name) as slide:
            pixels = slide.frame().read(slide.size.box)
        assert (pixels[:20] == (200, 0, 100)).all()
        assert (pixels[20:] == 255).all()


def test_grey_is_repeated(tmp_path: Path, image: Pixels) -> None:
    grey = image[..., 1]
    Image.fromarray(grey).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.ome.tif", grey, tile=(256, 256), photometric="minisblack")
    for name in ("a.png", "a.ome.tif"):
        with open_slide(tmp_path / name) as slide:
            pixels = slide.frame().read(slide.size.box)
        np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_a_compression_unknown_to_openslide_is_read(tmp_path: Path, image: Pixels) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb", tile=(256, 256), compression="jpegxl"
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.vendor == "tiff"
        np.testing.assert_allclose(slide.frame().read(slide.size.box), image, atol=16)


# Frames


def test_a_level_within_one_percent_is_taken_as_it_is(folder: Path) -> None:
    with open_slide(folder / "camelyon.tif") as slide:
        for mpp, level in ((0.25, 0), (0.2476, 0), (0.2524, 0), (0.5, 1), (1.0, 2)):
            frame = slide.frame(mpp=mpp)
            assert (frame.level, frame.size) == (level, slide.levels[level].size)


def test_between_levels_the_finer_one_is_resampled(folder: Path) -> None:
    with open_slide(folder / "camelyon.tif") as slide:
        frame = slide.frame(mpp=0.75)
        assert frame.level == 1
        assert frame.downsample == pytest.approx(3)
        assert frame.size == Size(333, 243)
        assert frame.mpp is not None
        assert frame.mpp.mean == pytest.approx(0.75)


def test_magnification_is_taken_from_the_objective_else_from_the_pixel_size(folder: Path) -> None:
    with open_slide(folder / "camelyon.tif") as slide:
        assert slide.frame(magnification=20).level == 1
    with open_slide(real("CMU-1-Small-Region.svs")) as slide:
        frame = slide.frame(magnification=5)
        assert (frame.magnification, frame.downsample, frame.size) == (5, 4, Size(555, 741))


def test_a_box_of_level_0_is_rounded_outwards_and_clipped(folder: Path) -> None:
    with open_slide(folder / "plain.tif") as slide:
        frame = slide.frame(mpp=1.0)
        assert frame.box_from_level0(Box(5, 8, 8, 9)) == Box(1, 2, 3, 3)
        assert frame.box_from_level0(Box(-50, -50, 5000, 5000)) == frame.size.box
        assert not frame.box_from_level0(Box(5000, 0, 9, 9)).area


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mpp": 0.2}, "finer than level 0, which has 0.25 um a pixel"),
        ({"magnification": 80}, "finer than level 0"),
        ({"mpp": 1e6}, "coarser than level 0"),
        ({"level": 4}, "no level 4: the slide has levels 0 to 3"),
        ({"level": -1}, "no level -1"),
        ({"mpp": 0.5, "level": 0}, "only one of"),
        ({"mpp": 0}, "not positive"),
        ({"mpp": float("nan")}, "not positive"),
        ({"magnification": -5}, "not positive"),
    ],
)
def test_impossible_frames_are_refused(folder: Path, option: dict[str, Any], message: str) -> None:
    with open_slide(folder / "camelyon.tif") as slide, pytest.raises(RefusedError, match=message):
        slide.frame(**option)


@pytest.mark.parametrize("option", [{"mpp": 0.5}, {"magnification": 10}])
def test_without_a_pixel_size_only_levels_can_be_asked_for(
    tmp_path: Path, option: dict[str, Any]
) -> None:
    Image.fromarray(tissue(64, 64)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide, pytest.raises(RefusedError, match="--level"):
        slide.frame(**option)


# Thumbnails


@pytest.mark.parametrize("max_px", [1, 100, 126, 300, 999, 5000])
def test_a_thumbnail_fits_and_looks_alike(slide: Slide, image: Pixels, max_px: int) -> None:
    thumbnail = slide.thumbnail(max_px)
    assert max(thumbnail.shape[:2]) == min(max_px, 1001)
    small = Image.fromarray(image).resize(thumbnail.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(thumbnail.astype(int) - np.asarray(small)).mean() < 4


# Files that are refused


def test_files_that_are_no_slides_are_refused_in_one_line(tmp_path: Path, image: Pixels) -> None:
    camelyon_style(tmp_path / "whole.tif", image, 0.25)
    Image.fromarray(image).save(tmp_path / "whole.png")
    contents = {
        "text.svs": b"not a slide",
        "noise.tif": b"II*\0" + bytes(range(256)),
        "cut.tif": (tmp_path / "whole.tif").read_bytes()[:20_000],
        "cut.png": (tmp_path / "whole.png").read_bytes()[:2_000],
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(RefusedError) as caught:
            open_slide(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: not a slide or image that slidesr can read: ")
        assert message.isprintable()


def test_what_is_no_file_with_something_in_it_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "loop.svs").symlink_to("loop.svs")
    refused = {
        "none.svs": "No such file",
        ".": "a folder",
        "fifo": "a pipe",
        "empty.svs": "is empty",
        "loop.svs": "symbolic links",
    }
    for name, message in refused.items():
        with pytest.raises(RefusedError, match=message):
            open_slide(tmp_path / name)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    deep = np.zeros((64, 64, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", deep, photometric="rgb")
    Image.fromarray(deep[..., 0]).save(tmp_path / "a.png")
    for name in ("a.ome.tif", "a.png"):
        with pytest.raises(RefusedError, match="--window 0,4095"):
            open_slide(tmp_path / name)


def test_an_image_too_large_for_memory_is_refused_unread(tmp_path: Path) -> None:
    Image.new("1", (40_000, 20_000)).save(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(RefusedError, match="40000 x 20000 px"):
        open_slide(tmp_path / "a.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_tile_too_large_for_memory_is_refused_unread(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", tissue(32, 32), photometric="rgb", tile=(16, 16), metadata=None
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        for tag in ("TileWidth", "TileLength"):
            tiff.pages.first.tags[tag].overwrite(32768, dtype="I")
    with pytest.raises(RefusedError, match="a tile of 32768 x 32768 px"):
        open_slide(tmp_path / "a.tif")


def test_a_bad_tile_is_named(tmp_path: Path, image: Pixels) -> None:
    path = tmp_path / "a.tif"
    camelyon_style(path, image, 0.25, tile=256)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[5], page.databytecounts[5]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with open_slide(path) as slide:
        slide.frame().read(Box(0, 0, 256, 256))
        with pytest.raises(SlidesrError, match=r"a\.tif: level 0 cannot be read at x 300, y 300"):
            slide.frame().read(Box(300, 300, 9, 9))


# Real slides


@pytest.mark.parametrize(
    ("name", "vendor", "size", "mpp"),
    [
        ("CMU-1-Small-Region.svs", "aperio", Size(2220, 2967), 0.499),
        ("TCGA-CR-7395-01A-01-TS1.svs", "aperio", Size(4443, 3567), None),
        ("OS-2-ndpi.ome.tif", "ome-tiff", Size(2202, 2202), 0.2271),
        ("camelyon_jpeg.dcm", "dicom", Size(1152, 700), 28.97),
        ("highdicom_sm_image.dcm", "dicom", Size(50, 50), 0.499),
        ("openslide_boxes.tiff", "generic-tiff", Size(300, 250), None),
        ("pathml_small_HE_levels.tiff", "generic-tiff", Size(300, 250), None),
    ],
)
def test_real_slides_open_and_read(name: str, vendor: str, size: Size, mpp: float | None) -> None:
    with open_slide(real(name)) as slide:
        assert (slide.vendor, slide.size) == (vendor, size)
        assert (slide.mpp and slide.mpp.mean) == (mpp and pytest.approx(mpp, rel=1e-3))
        assert slide.thumbnail(64).shape[2] == 3
        for level in range(len(slide.levels)):
            frame = slide.frame(level=level)
            assert frame.read(frame.size.box).std() > 1


def test_a_level_with_a_broken_downsample_is_still_one_image() -> None:
    """Level 1 of this slide is 2.0005 times smaller; OpenSlide alone shifts it box by box."""
    with open_slide(real("TCGA-CR-7395-01A-01-TS1.svs")) as slide:
        frame = slide.frame(level=1)
        whole = frame.read(Box(900, 900, 700, 700))
        part = frame.read(Box(1001, 1013, 50, 60))
    np.testing.assert_array_equal(part, whole[113:173, 101:151])
