"""Any TIFF shows the same picture whichever way it is stored, or is refused in one line.

SLIDESR_EXAMPLES is the number of TIFFs, by default 100; above 500 some are read by Bio-Formats too.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from support.tiffs import (
    MPP,
    U8,
    Samples,
    as_rgb,
    by_pillow,
    colour_map,
    over_white,
    premultiplied_over_white,
    turned,
    windowed,
    written,
)

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Size
from slidesr.imaging.window import Window, WindowChoice
from slidesr.slide import Slide, open_slide
from slidesr.verify.readers.by_bioformats import BioFormatsReader
from slidesr.verify.readers.reader import NotInstalledError

EXAMPLES = int(os.environ.get("SLIDESR_EXAMPLES", "100"))
SOAK_EXAMPLES, EVERY_NTH_BY_BIOFORMATS = 500, 4
COLOURS = {"rgb": 3, "minisblack": 1, "miniswhite": 1, "palette": 1, "separated": 4, "ycbcr": 3}
DEPTHS = {
    "uint8": 8, "uint16": 16, "uint32": 32, "int8": 8, "int16": 16, "float32": 32,
    "1 bit": 1, "2 bits": 2, "4 bits": 4,
}  # fmt: skip
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2  # values of the tag ExtraSamples
JPEG_QUALITY, JPEG_TOLERANCE = 98, 12


@dataclass(frozen=True)
class Spec:
    """One way to store a picture in a TIFF."""

    size: Size
    colour: str
    depth: str
    extra: tuple[int, ...] = ()
    is_planar: bool = False
    tile: tuple[int, int] | None = None
    strip_rows: int = 7
    levels: int = 1
    subifds: bool = False
    is_ome: bool = False
    orientation: int = 1
    compression: str | None = None
    subsampling: tuple[int, int] = (1, 1)
    predictor: bool = False
    is_big: bool = False
    byteorder: str = "<"
    scale: int = 16  # of samples of 16 bits: 12 bits in them, or all
    window: WindowChoice = None
    seed: int = 0

    @property
    def bits(self) -> int:
        return DEPTHS[self.depth]

    @property
    def is_lossy(self) -> bool:
        return self.compression == "jpeg"

    @property
    def has_one_meaning(self) -> bool:
        """Grey with two samples more may be three channels; inverse grey is not multiplied."""
        is_channels = COLOURS[self.colour] == 1 and len(self.extra) > 1
        return not is_channels and not (self.colour == "miniswhite" and PREMULTIPLIED in self.extra)

    @property
    def must_open(self) -> bool:
        """The rule: unsigned samples of up to 8 bits without a window, those of 16 with one."""
        if not self.has_one_meaning:
            return False
        if self.depth == "uint16":
            lifts_black = isinstance(self.window, Window) and self.window.low > 0
            return self.window is not None and not (lifts_black and PREMULTIPLIED in self.extra)
        return (self.depth == "uint8" or self.bits < 8) and not isinstance(self.window, Window)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Everything that tifffile can write; what it cannot is left out, not what slidesr cannot."""
    colour = draw(st.sampled_from([*sorted(COLOURS), "rgb", "rgb"]))  # which OpenSlide reads too
    depth = draw(st.sampled_from(_depths(colour)))
    side = st.one_of(st.integers(1, 40), st.integers(41, 150))
    tile_side = st.sampled_from([16, 32, 48, 64])
    is_plain = depth == "uint8"
    can_jpeg = is_plain and colour in ("rgb", "ycbcr", "minisblack")
    how = (
        ["none", "deflate", "lzw", "packbits", "zstd", *["jpeg"] * can_jpeg]
        if DEPTHS[depth] >= 8
        else ["none"]
    )
    compression = draw(st.sampled_from(how))
    is_jpeg = compression == "jpeg"
    can_have_extra = colour in ("rgb", "minisblack", "miniswhite") and DEPTHS[depth] >= 8
    kinds = st.sampled_from([(), (0,), (1,), (2,), (0, 0), (0, 2), (2, 0), (0, 1), (1, 0)])
    extra = draw(st.one_of(st.just(()), kinds)) if can_have_extra and not is_jpeg else ()
    samples = COLOURS[colour] + len(extra)
    levels = draw(st.integers(1, 3))
    least = 8 * 2 ** (levels - 1) if levels > 1 else 1
    return Spec(
        size=Size(max(least, draw(side)), max(least, draw(side))),
        colour=colour,
        depth=depth,
        extra=extra,
        is_planar=samples > 1 and not (is_jpeg and colour == "ycbcr") and draw(st.booleans()),
        tile=draw(st.one_of(st.none(), st.tuples(tile_side, tile_side))),
        strip_rows=draw(st.integers(1, 160)) if not is_jpeg else draw(st.sampled_from([16, 160])),
        levels=levels,
        subifds=draw(st.booleans()),
        is_ome=draw(st.booleans()),
        orientation=draw(st.one_of(st.just(1), st.integers(1, 8))),
        compression=None if compression == "none" else compression,
        subsampling=draw(st.sampled_from([(1, 1), (2, 1), (2, 2)])) if is_jpeg else (1, 1),
        predictor=compression in ("deflate", "lzw") and depth[:4] == "uint" and draw(st.booleans()),
        is_big=draw(st.booleans()),
        byteorder=draw(st.sampled_from("<>")),
        scale=draw(st.sampled_from([16, 256])),
        window=draw(_windows(depth)),
        seed=draw(st.integers(0, 99)),
    )


def _depths(colour: str) -> list[str]:
    if colour in ("separated", "ycbcr"):
        return ["uint8"]
    few = ["1 bit", "2 bits", "4 bits"]
    if colour == "palette":
        return ["uint8", *few]
    refused = ["uint32", "int8", "int16", "float32"]
    return ["uint8"] * 6 + ["uint16"] * 4 + refused + (few * 2 if colour != "rgb" else [])


def _windows(depth: str) -> st.SearchStrategy[WindowChoice]:
    some = st.sampled_from([Window(0, 4095), Window(700, 2900), Window(0, 65535), "auto"])
    if depth == "uint16":
        return st.one_of(some, some, st.none())
    return st.one_of(st.none(), st.none(), st.none(), some)


# The picture, as it is stored and as it is seen


@dataclass(frozen=True)
class Stored:
    """One level: its samples, [h, w, samples] with extra ones last, and how it is to be seen."""

    samples: Samples
    seen: U8


def level_of(spec: Spec, index: int) -> Stored:
    """A picture of noise, so that no part is like another; a smooth one where JPEG stores it."""
    width, height = (-(-side // 2**index) for side in (spec.size.width, spec.size.height))
    rng = np.random.default_rng([spec.seed, index])
    count = COLOURS[spec.colour] + len(spec.extra)
    if spec.is_lossy:
        return _smooth(width, height, count, spec)
    if spec.bits < 8:
        samples = rng.integers(0, 2**spec.bits, (height, width, count), dtype=np.uint8)
    elif spec.depth == "uint16":
        samples = rng.integers(0, 256 * spec.scale, (height, width, count), dtype=np.uint16)
        samples[0, 0] = 130 * spec.scale  # the first level always takes all of its 12 or 16 bits
    else:
        samples = rng.integers(0, 127, (height, width, count), dtype=np.uint8)
        samples[:, ::3] += 128 if spec.depth == "uint8" else 0
        samples = samples.astype(spec.depth)
    _multiply(spec, samples)
    return Stored(samples, turned(_seen(spec, samples), spec.orientation))


def _smooth(width: int, height: int, count: int, spec: Spec) -> Stored:
    """Nearly grey where colours are subsampled, since the black beyond the image bleeds in."""
    y, x = np.mgrid[:height, :width]
    light, tint = 60 + x // 2 + y // 3, 50 if spec.subsampling == (1, 1) else 8
    samples = np.stack([light + tint, light, light - tint][:count], -1).astype(np.uint8)
    rgb = samples if count == 3 else as_rgb(samples[..., 0])
    return Stored(samples, turned(rgb, spec.orientation))


def _multiply(spec: Spec, samples: Samples) -> None:
    """Makes the colours such as a premultiplied alpha allows."""
    if spec.depth in ("uint8", "uint16") and PREMULTIPLIED in spec.extra:
        colours = COLOURS[spec.colour]
        alpha = samples[..., colours + spec.extra.index(PREMULTIPLIED)]
        samples[..., :colours] = np.minimum(samples[..., :colours], alpha[..., None])


def _seen(spec: Spec, samples: Samples) -> U8:
    """The rules of the reader in numpy; white where it is to refuse."""
    if not spec.must_open:
        return np.full((*samples.shape[:2], 3), 255, np.uint8)
    if spec.colour == "palette":
        return (_palette(spec) >> 8).astype(np.uint8)[samples[..., 0]]
    eight = _eight_bits(spec, samples * (255 // (2**spec.bits - 1) if spec.bits < 8 else 1))
    colours, extra = eight[..., : COLOURS[spec.colour]], eight[..., COLOURS[spec.colour] :]
    rgb = _rgb(spec.colour, colours)
    for kind, values in zip(spec.extra, np.moveaxis(extra, 2, 0), strict=True):
        if kind == ALPHA:
            return over_white(rgb, values)
        if kind == PREMULTIPLIED:
            return premultiplied_over_white(rgb, values)
    return rgb


def _eight_bits(spec: Spec, samples: Samples) -> U8:
    if spec.depth != "uint16":
        return np.asarray(samples, np.uint8)
    if isinstance(spec.window, Window):
        return windowed(samples, spec.window.low, spec.window.high)
    return windowed(samples, 0, 256 * spec.scale - 1)


def _rgb(colour: str, samples: U8) -> U8:
    if colour == "miniswhite":
        return as_rgb(255 - samples[..., 0])
    if colour == "minisblack":
        return as_rgb(samples[..., 0])
    if colour == "rgb":
        return np.ascontiguousarray(samples)
    return by_pillow(np.ascontiguousarray(samples), {"separated": "CMYK", "ycbcr": "YCbCr"}[colour])


def _palette(spec: Spec) -> Samples:
    return np.random.default_rng(spec.seed).integers(0, 65536, (2**spec.bits, 3), dtype=np.uint16)


# The file


def write(spec: Spec, path: Path) -> list[Stored]:
    levels = [level_of(spec, index) for index in range(spec.levels)]
    axes = _axes(spec)
    data = written(
        [_arranged(level.samples, axes) for level in levels],
        ome=axes if spec.is_ome else "",
        subifds=spec.subifds and spec.levels > 1,
        orientation=spec.orientation,
        file={"bigtiff": spec.is_big, "byteorder": spec.byteorder},
        **_tags(spec),
    )
    path.write_bytes(data)
    return levels


def _axes(spec: Spec) -> str:
    if COLOURS[spec.colour] + len(spec.extra) == 1:
        return "YX"
    return "SYX" if spec.is_planar else "YXS"


def _arranged(samples: Samples, axes: str) -> Samples:
    return np.ascontiguousarray(
        {"YX": samples[..., 0], "YXS": samples, "SYX": np.moveaxis(samples, 2, 0)}[axes]
    )


def _tags(spec: Spec) -> dict[str, Any]:
    tags: dict[str, Any] = {"photometric": spec.colour, "compression": spec.compression}
    tags |= {"tile": spec.tile} if spec.tile else {"rowsperstrip": spec.strip_rows}
    if spec.bits < 8:
        tags["bitspersample"] = spec.bits
    if spec.colour == "palette":
        tags |= colour_map(_palette(spec))
    if COLOURS[spec.colour] + len(spec.extra) > 1:
        tags["planarconfig"] = "separate" if spec.is_planar else "contig"
    if spec.extra:
        tags["extrasamples"] = spec.extra
    if spec.predictor:
        tags["predictor"] = True
    if spec.is_lossy:
        tags["compressionargs"] = {"level": JPEG_QUALITY}
        if COLOURS[spec.colour] == 3 and not spec.is_planar:
            tags["photometric"] = "rgb"  # of what is given; it is stored as `colour`
            tags["compressionargs"]["outcolorspace"] = spec.colour
            tags["subsampling"] = spec.subsampling if spec.colour == "ycbcr" else (1, 1)
    return tags


# The test

_number, _plain_number = itertools.count(), itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiffs")


@given(spec=specs(), corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=2, max_size=3))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_tiff_shows_its_picture_or_is_refused_in_one_line(
    folder: Path, spec: Spec, corners: list[tuple[float, ...]]
) -> None:
    number = next(_number)
    path = folder / f"{number}.tif"
    levels = write(spec, path)
    try:
        event(f"must open: {spec.must_open}")
        if spec.must_open:
            with open_slide(path, window=spec.window) as slide:
                _check_facts(spec, slide, levels)
                _check_pixels(spec, slide, levels)
                _check_boxes(slide, corners)
            _check_by_libvips(spec, path, levels[0].seen)
            if EXAMPLES > SOAK_EXAMPLES:
                _check_by_bioformats(spec, path, levels[0].seen)
        else:
            with pytest.raises(RefusedError) as caught:
                open_slide(path, window=spec.window)
            assert str(caught.value).startswith(f"{path}: ")
            assert str(caught.value).isprintable()
            if spec.depth == "uint16" and spec.has_one_meaning:
                assert "window" in str(caught.value)
    finally:
        path.unlink()


def _check_facts(spec: Spec, slide: Slide, levels: list[Stored]) -> None:
    sizes = [Size(*level.seen.shape[1::-1]) for level in levels]
    if spec.tile:
        assert [level.size for level in slide.levels] == sizes
    else:  # the lower levels of a file in strips need not be found
        assert [level.size for level in slide.levels] == sizes[: len(slide.levels)]
    mpp = MPP[::-1] if spec.orientation > 4 else MPP
    assert slide.mpp is not None
    assert (slide.mpp.x, slide.mpp.y) == pytest.approx(mpp, rel=1e-4)
    assert (slide.window is not None) == (spec.depth == "uint16")


def _check_pixels(spec: Spec, slide: Slide, levels: list[Stored]) -> None:
    for index, (_, level) in enumerate(zip(slide.levels, levels, strict=False)):
        frame = slide.frame(level=index)
        _check_alike(spec, frame.read(frame.size.box), level.seen)


def _check_alike(spec: Spec, found: U8, right: U8) -> None:
    assert found.shape == right.shape
    assert np.abs(found.astype(int) - right).max() <= (JPEG_TOLERANCE if spec.is_lossy else 0)


def _check_boxes(slide: Slide, corners: list[tuple[float, ...]]) -> None:
    """Boxes across tiles and strips are parts of the whole."""
    for level in range(len(slide.levels)):
        frame = slide.frame(level=level)
        width, height = frame.size.width, frame.size.height
        whole = frame.read(frame.size.box)
        for left, top, right, bottom in corners:
            x, y = int(left * (width - 1)), int(top * (height - 1))
            box = Box(x, y, 1 + int(right * (width - 1 - x)), 1 + int(bottom * (height - 1 - y)))
            np.testing.assert_array_equal(frame.read(box), whole[box.slices])


# Readers that know nothing of ours


def _check_by_libvips(spec: Spec, path: Path, right: U8) -> None:
    """The picture that `_seen` expects is what libvips shows, where it has the same rules.

    It leaves alpha to its users, CMYK to profiles, and inverts all 16 bits, not those of a window.
    It does not turn YCbCr that is not JPEG into RGB, reads no tiles of separate planes, mixes up
    (8.18) the two planes of grey with an extra sample, and is built without Zstandard on PyPI.
    """
    pyvips = pytest.importorskip("pyvips")
    is_deep, is_grey = spec.depth == "uint16", spec.colour in ("minisblack", "miniswhite")
    is_raw_ycbcr = spec.colour == "ycbcr" and not spec.is_lossy
    is_lost = spec.is_planar and (spec.tile is not None or spec.colour != "rgb")
    is_lost = is_lost or spec.compression == "zstd"
    is_other = spec.colour == "separated" or (spec.colour == "miniswhite" and is_deep)
    if is_other or is_raw_ycbcr or is_lost or {ALPHA, PREMULTIPLIED} & {*spec.extra}:
        return
    event("read by libvips too")
    image = pyvips.Image.tiffload_buffer(path.read_bytes()).autorot()
    samples = image.numpy().reshape(image.height, image.width, image.bands)
    eight = _eight_bits(spec, samples)
    _check_alike(spec, as_rgb(eight[..., 0]) if is_grey else eight[..., :3], right)


def _check_by_bioformats(spec: Spec, path: Path, right: U8) -> None:
    """Some of the plain RGB, which is all that Bio-Formats gives without a rule of ours."""
    if (spec.colour, spec.depth, spec.extra, spec.orientation) != ("rgb", "uint8", (), 1):
        return
    if next(_plain_number) % EVERY_NTH_BY_BIOFORMATS:  # each starts a Java of its own
        return
    try:
        reader = BioFormatsReader(path)
    except NotInstalledError:
        return
    event("read by Bio-Formats too")
    try:
        _check_alike(spec, reader.read(0, reader.facts.levels[0].box), right)
    finally:
        reader.close()
