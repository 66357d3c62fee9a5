"""Colour profiles: conversion is a pure function of the pixel, and nothing changes unsaid."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.slides import tissue
from tifffile import TiffWriter

from slidesr.errors import RefusedError
from slidesr.geometry import Box
from slidesr.imaging.icc import ICC_CHOICES, ProfileError, profile_name, srgb_profile, to_srgb
from slidesr.slide import open_slide

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


def test_a_broken_profile_is_refused_with_its_cure(tmp_path: Path) -> None:
    Image.fromarray(tissue(40, 30)).save(tmp_path / "a.png", icc_profile=b"nonsense")
    with pytest.raises(RefusedError, match="--icc keep"):
        open_slide(tmp_path / "a.png", icc="srgb")


def test_there_is_no_other_choice(scanned: Path) -> None:
    assert ICC_CHOICES == ("keep", "srgb", "drop")
    with pytest.raises(ValueError, match="adobe"):
        open_slide(scanned, icc="adobe")
