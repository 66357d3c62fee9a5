"""Colour profiles: conversion is a pure function of the pixel, and nothing changes unsaid."""

from __future__ import annotations

import logging
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.profiles import icc_profile
from support.slides import tissue
from support.zarr_files import rgb_store
from tifffile import TiffWriter

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Size
from slidesr.imaging.icc import (
    ICC_CHOICES,
    ProfileError,
    pixel_space,
    profile_name,
    srgb_profile,
    to_srgb,
)
from slidesr.pipeline.convert import convert
from slidesr.slide import Level, open_slide
from slidesr.slide.sources.icc import under_profile
from slidesr.slide.sources.source import About

U8 = NDArray[np.uint8]


def swapped_profile() -> bytes:
    """A profile of a scanner whose red is sRGB's green and the other way round."""
    profile = bytearray(srgb_profile())
    for at in range(132, 132 + 12 * int.from_bytes(profile[128:132]), 12):
        name = bytes(profile[at : at + 4])
        if name in (b"rXYZ", b"gXYZ"):
            profile[at] = ord("g") if name[:1] == b"r" else ord("r")
    return bytes(profile)


@pytest.fixture
def scanned(tmp_path: Path) -> Path:
    """A tiled slide in the colours of that scanner."""
    path = tmp_path / "scanned.tif"
    with TiffWriter(path) as tiff:
        tiff.write(
            tissue(300, 260),
            tile=(256, 256),
            photometric="rgb",
            metadata=None,
            iccprofile=swapped_profile(),
        )
    return path


def test_the_srgb_profile_has_no_time_of_its_making() -> None:
    assert srgb_profile()[24:36] == bytes.fromhex("07cf000a0012000000000000")
    assert "sRGB" in profile_name(srgb_profile())


def test_srgb_to_srgb_changes_nothing() -> None:
    image = tissue(64, 48)
    assert np.array_equal(to_srgb(srgb_profile())(image), image)


def test_a_profile_is_obeyed() -> None:
    image = tissue(64, 48)
    shown = to_srgb(swapped_profile())(image)
    assert np.abs(shown.astype(int) - image[..., [1, 0, 2]]).max() <= 1


def test_the_conversion_is_what_little_cms_makes() -> None:
    image = tissue(64, 48)
    scanner = ImageCms.ImageCmsProfile(BytesIO(swapped_profile()))
    expected = ImageCms.profileToProfile(
        Image.fromarray(image), scanner, ImageCms.createProfile("sRGB")
    )
    assert expected is not None
    assert np.array_equal(to_srgb(swapped_profile())(image), np.asarray(expected))


def test_a_pixel_is_converted_by_itself_in_any_thread() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (200, 300, 3), np.uint8)
    convert = to_srgb(swapped_profile())
    whole = convert(image)
    order = rng.permutation(200)
    assert np.array_equal(convert(image[order]), whole[order])
    boxes = [Box(x, y, 30, 20) for x in range(0, 300, 30) for y in range(0, 200, 20)]
    with ThreadPoolExecutor(8) as pool:
        for box, part in zip(
            boxes, pool.map(lambda box: convert(image[box.slices]), boxes), strict=True
        ):
            assert np.array_equal(part, whole[box.slices])


@pytest.mark.parametrize("broken", [b"", b"not a profile", srgb_profile()[:200]])
def test_a_broken_profile_is_said_to_be(broken: bytes) -> None:
    with pytest.raises(ProfileError):
        to_srgb(broken)


def test_a_profile_of_other_than_rgb_is_refused() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(ProfileError):
        to_srgb(lab)


def test_kept_colours_are_the_files(scanned: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_slide(scanned) as slide:
        assert slide.icc_profile == swapped_profile()
        assert np.array_equal(slide.frame().read(slide.size.box), tissue(300, 260))
    assert not caplog.records


def test_srgb_converts_pixels_thumbnail_and_profile_together(scanned: Path) -> None:
    with open_slide(scanned, icc="srgb") as slide, open_slide(scanned) as kept:
        assert slide.icc_profile == srgb_profile()
        convert = to_srgb(swapped_profile())
        assert np.array_equal(slide.frame().read(slide.size.box), convert(tissue(300, 260)))
        assert np.array_equal(slide.thumbnail(300), convert(kept.thumbnail(300)))


def test_a_dropped_profile_is_told_of(scanned: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_slide(scanned, icc="drop") as slide:
        assert slide.icc_profile is None
        assert np.array_equal(slide.frame().read(slide.size.box), tissue(300, 260))
    assert "will show other colours" in caplog.text


@pytest.mark.parametrize("choice", ["srgb", "drop"])
def test_no_profile_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, choice: str
) -> None:
    Image.fromarray(tissue(40, 30)).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING), open_slide(tmp_path / "a.png", icc=choice) as slide:
        assert slide.icc_profile is None
    assert "no ICC profile" in caplog.text


# Profiles that do not fit

UNFIT = {
    "is for GRAY pixels, not RGB": icc_profile(b"GRAY"),
    "is for CMYK pixels, not RGB": icc_profile(b"CMYK", b"prtr", b"Lab "),
    "is of class 'link'": icc_profile(b"RGB ", b"link"),
    "is of class 'nmcl'": icc_profile(b"RGB ", b"nmcl"),
    "is of class 'abst'": icc_profile(b"Lab ", b"abst", b"Lab "),
    "is broken: cannot build transform": icc_profile(b"RGB "),
    "is broken: cannot open profile": b"nonsense",
}
unfit = pytest.mark.parametrize(("why", "profile"), UNFIT.items(), ids=list(UNFIT))


@unfit
@pytest.mark.parametrize("choice", ["keep", "drop"])
def test_an_unfit_profile_is_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str, profile: bytes, choice: str
) -> None:
    Image.fromarray(tissue(40, 30)).save(tmp_path / "a.png", icc_profile=profile)
    with open_slide(tmp_path / "a.png", icc=choice) as slide:
        assert slide.icc_profile is None
        assert np.array_equal(slide.frame().read(slide.size.box), tissue(40, 30))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"a.png: its ICC profile {why}")
    assert record.getMessage().endswith(", and is left out")


@unfit
def test_nothing_is_converted_by_an_unfit_profile(tmp_path: Path, why: str, profile: bytes) -> None:
    Image.fromarray(tissue(40, 30)).save(tmp_path / "a.png", icc_profile=profile)
    with pytest.raises(RefusedError, match=f"profile {why}.*--icc drop"):
        open_slide(tmp_path / "a.png", icc="srgb")


@pytest.mark.parametrize("profile", [icc_profile(b"CMYK"), b"nonsense"])
def test_each_reader_leaves_it_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: bytes
) -> None:
    image = tissue(300, 260)
    tiled: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "iccprofile": profile}
    tifffile.imwrite(tmp_path / "openslide.tif", image, metadata=None, **tiled)
    tifffile.imwrite(tmp_path / "tifffile.ome.tif", image, compression="zstd", **tiled)
    Image.fromarray(image).save(tmp_path / "pillow.png", icc_profile=profile)
    rgb_store(tmp_path / "zarr", "0.4", **of_ours(profile))
    for path in tmp_path.iterdir():
        with open_slide(path) as slide:
            assert slide.icc_profile is None
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{path.name}: its ICC profile is")
        caplog.clear()


def of_ours(profile: bytes) -> dict[str, Any]:
    """What slidesr notes of a profile in a store."""
    return {"slidesr": {"provenance": {}, "icc_profile": b64encode(profile).decode()}}


headers = st.builds(
    lambda at, four: {at: four}, st.sampled_from([4, 8, 12, 16, 20, 36, 64]), st.binary(min_size=4)
)


@given(
    st.sampled_from([srgb_profile(), swapped_profile(), icc_profile()]),
    headers,
    st.integers(0, 4000),
)
def test_a_slide_has_a_usable_rgb_profile_or_none(
    profile: bytes, header: dict[int, bytes], length: int
) -> None:
    """Whatever the bytes are, and however they are cut off."""
    changed = bytearray(profile)
    for at, four in header.items():
        changed[at : at + 4] = four[:4]
    source = Plain(bytes(changed[:length]))
    kept = under_profile(Path("a.png"), source, "keep").about.icc_profile
    assert kept in (None, source.about.icc_profile)
    if kept is not None:
        to_srgb(kept)
        assert pixel_space(kept) == "RGB"


class Plain:
    """A source of glass with a profile."""

    def __init__(self, profile: bytes) -> None:
        self.about = About("plain", (Level(Size(9, 9), 1.0),), icc_profile=profile)

    def read(self, level: int, box: Box) -> U8:
        return np.full((box.height, box.width, 3), 255, np.uint8)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("profile", [icc_profile(b"CMYK"), icc_profile(b"GRAY"), b"nonsense"])
@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif", "out.ome.zarr"])
def test_no_writer_writes_an_unfit_profile(tmp_path: Path, name: str, profile: bytes) -> None:
    source = tmp_path / "a.tif"
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(source, tissue(300, 260), iccprofile=profile, **options)
    made = convert(source, tmp_path / name)
    files = [made] if made.is_file() else [file for file in made.rglob("*") if file.is_file()]
    assert not any(b"icc_profile" in file.read_bytes() for file in files)
    if made.is_file():
        with tifffile.TiffFile(made) as tiff:
            assert not any("InterColorProfile" in page.aspage().tags for page in tiff.pages)


def test_there_is_no_other_choice(scanned: Path) -> None:
    assert ICC_CHOICES == ("keep", "srgb", "drop")
    with pytest.raises(ValueError, match="adobe"):
        open_slide(scanned, icc="adobe")
