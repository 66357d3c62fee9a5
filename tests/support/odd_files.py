"""Sound files of unusual kinds, each with what slidesr is to make of it: its pixels, or no slide.

The kinds are those that people reported publicly of other programs, and their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffWriter

from slidesr.imaging.window import Window, WindowChoice
from support.tiffs import (
    MPP,
    U8,
    Samples,
    as_rgb,
    by_pillow,
    colour_map,
    ome_metadata,
    over_white,
    premultiplied_over_white,
    resolution,
    turned,
    windowed,
    written,
)

MakeFile: TypeAlias = Callable[[], bytes]
OddFiles: TypeAlias = Iterator["OddFile"]

TILED: dict[str, Any] = {"tile": (64, 64)}
STRIPS: dict[str, Any] = {"rowsperstrip": 24}
TWELVE_BITS = Window(0, 4095)
RED, GREEN, BLUE = 0xFF0000FF, 0x00FF00FF, 0x0000FFFF  # RGBA
_UNSPECIFIED, _PREMULTIPLIED, _ALPHA = 0, 1, 2  # values of the tag ExtraSamples
_ORIENTATION, _SUBSAMPLING = 274, 530


@dataclass(frozen=True)
class OddFile:
    """`right` are the pixels of level 0, u8[h, w, 3], or a pattern in the one line of refusal.

    `mpp` is across and down; `image` is the name of the image that is read, where several are.
    """

    name: str
    make: MakeFile
    right: U8 | str
    mpp: tuple[float, float] | None = MPP
    window: WindowChoice = None
    tolerance: int = 0
    image: str = ""

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.make())
        return path

    @property
    def is_refused(self) -> bool:
        return isinstance(self.right, str)


def _picture() -> U8:
    """u8[150, 200, 3]: no two parts alike, no mirror image of itself."""
    y, x = np.mgrid[:150, :200]
    squares = 40 * ((x // 32 + y // 32) % 2)
    return np.stack([120 + x // 2, 60 + y // 2 + squares, 200 - x // 2], -1).astype(np.uint8)


T = _picture()
H, W, _ = T.shape
GREY = T[..., 1]
PLANES = np.ascontiguousarray(T.transpose(2, 0, 1))
INK = np.dstack([255 - T, GREY // 4])  # cyan, magenta, yellow, black
FADE = np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))
PREMULTIPLIED = (T.astype(int) * FADE[..., None] // 255).astype(np.uint8)
DEEP = T.astype(np.uint16) * 16 + 9  # 12 bits in 16


def halves(samples: Samples, axes: str = "YXS") -> list[Samples]:
    """Two levels, the second of every other pixel."""
    every_other = tuple(slice(None, None, 2 if axis in "YX" else 1) for axis in axes)
    return [samples, np.ascontiguousarray(samples[every_other])]


def pyramid(samples: Samples, axes: str = "YXS", **tags: Any) -> MakeFile:
    """An OME-TIFF with one SubIFD."""
    return partial(
        written,
        halves(samples, axes),
        ome=axes,
        subifds=True,
        **({**TILED, "photometric": "rgb"} | tags),
    )


def flat(samples: Samples, **tags: Any) -> MakeFile:
    return partial(written, [samples], **({**TILED, "photometric": "rgb"} | tags))


def in_strips(samples: Samples, **tags: Any) -> MakeFile:
    return partial(written, [samples], **({**STRIPS, "photometric": "rgb"} | tags))


def everywhere(
    name: str, samples: Samples, right: U8 | str, axes: str = "YXS", **tags: Any
) -> OddFiles:
    """The same samples in tiles, in strips, and in a pyramid whose lower level is a SubIFD."""
    yield OddFile(f"{name}-tiled.tif", flat(samples, **tags), right)
    yield OddFile(f"{name}-strips.tif", in_strips(samples, **tags), right)
    yield OddFile(f"{name}-subifd.ome.tif", pyramid(samples, axes, **tags), right)


# Several planes or images


def channels() -> OddFiles:
    """f01: grey channels as pages, which are RGB only where the OME-XML says so."""

    def named(
        planes: Samples, layout: dict[str, Any] = TILED, **channel: Sequence[Any]
    ) -> MakeFile:
        metadata = ome_metadata("CYX", Channel=channel)
        return partial(_ome, (planes, metadata, {"photometric": "minisblack", **layout}))

    refused = r"(?i)channel"
    last_first = PLANES[::-1]
    yield OddFile("channels-rgb-names.ome.tif", named(PLANES, Name=["Red", "Green", "Blue"]), T)
    yield OddFile("channels-bgr-names.ome.tif", named(last_first, Name=["blue", "green", "red"]), T)
    colours = [_signed(colour) for colour in (RED, GREEN, BLUE)]
    yield OddFile("channels-rgb-colours.ome.tif", named(PLANES, Color=colours), T)
    yield OddFile("channels-bgr-colours.ome.tif", named(last_first, Color=colours[::-1]), T)
    moved = PLANES[[1, 0, 2]]
    yield OddFile(
        "channels-grb-colours.ome.tif", named(moved, Color=[colours[1], colours[0], colours[2]]), T
    )
    yield OddFile("channels-unnamed.ome.tif", named(PLANES), refused)
    stains = ["DAPI", "FITC", "Cy5"]
    yield OddFile("channels-stains.ome.tif", named(PLANES, Name=stains), refused)
    yield OddFile("channels-twice-red.ome.tif", named(PLANES, Name=["Red", "Red", "Blue"]), refused)
    yield OddFile("channels-two.ome.tif", named(PLANES[:2], Name=["Red", "Green"]), refused)
    for number, order in enumerate(([2, 1, 0], [1, 2, 0], [2, 0, 1])):  # FirstC of each IFD
        make = partial(_channels_in_order, order)
        yield OddFile(f"channels-first-c-{number}.ome.tif", make, T)
    yield OddFile(
        "channels-twice-first.ome.tif",
        partial(_channels_in_order, [0, 0, 1]),
        r"describes 3 planes",
    )
    yield OddFile("channels-no-size-c.ome.tif", partial(_channels_in_order, [0, 1, 2], ""), T)
    disagree = named(PLANES, Name=["Red", "Green", "Blue"], Color=colours[::-1])
    yield OddFile("channels-names-not-colours.ome.tif", disagree, refused)
    four = np.concatenate([PLANES, PLANES[:1]])
    names: dict[str, Any] = {"Name": ["Blue", "Green", "Red"]}
    yield OddFile("channels-strips.ome.tif", named(last_first, layout=STRIPS, **names), T)
    deep = np.ascontiguousarray(DEEP.transpose(2, 0, 1)[::-1])
    right = windowed(DEEP, 0, 4095)
    yield OddFile("channels-deep.ome.tif", named(deep, **names), right, window=TWELVE_BITS)
    yield OddFile("channels-deep-auto.ome.tif", named(deep, **names), right, window="auto")
    yield OddFile("channels-subifd.ome.tif", partial(_channels_in_pyramids, last_first, names), T)
    yield OddFile(
        "channels-four.ome.tif", named(four, Name=["Red", "Green", "Blue", "DAPI"]), refused
    )


def _channels_in_pyramids(planes: Samples, channel: dict[str, Sequence[Any]]) -> bytes:
    """Each channel with its own SubIFD."""
    data, how = BytesIO(), {"photometric": "minisblack", **TILED}
    first, second = halves(planes, "CYX")
    with TiffWriter(data, ome=True) as tiff:
        tiff.write(first, subifds=1, metadata=ome_metadata("CYX", Channel=channel), **how)
        tiff.write(second, subfiletype=1, **how)
    return data.getvalue()


def _channels_in_order(first_c: Sequence[int], size_c: str = 'SizeC="3"') -> bytes:
    """Red, green and blue in directories that TiffData gives out of order."""
    channels = "".join(f'<Channel ID="Channel:{name}" Name="{name}"/>' for name in ("R", "G", "B"))
    data = "".join(
        f'<TiffData IFD="{ifd}" FirstC="{channel}" PlaneCount="1"/>'
        for ifd, channel in enumerate(first_c)
    )
    pixels = f'<Pixels SizeX="{W}" SizeY="{H}" {size_c} {_sizes(MPP)}>{channels}{data}</Pixels>'
    pages = [PLANES[channel] for channel in first_c]
    return _pages(pages, _ome_xml(pixels), photometric="minisblack", **TILED)


def _sizes(mpp: tuple[float, float], unit: str = "µm") -> str:
    return " ".join(
        f'PhysicalSize{axis}="{um}" PhysicalSize{axis}Unit="{unit}"'
        for axis, um in zip("XY", mpp, strict=True)
    )


def _ome_xml(pixels: str, encoding: str = "UTF-8") -> bytes:
    """OME-XML of one image."""
    xml = (
        f'<?xml version="1.0" encoding="{encoding}"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f"<Image>{pixels}</Image></OME>"
    )
    return xml.encode(encoding)


def _signed(colour: int) -> int:
    """As OME-XML has colours, in 32 bits with a sign: red is -16776961."""
    return colour - 2**32 if colour >= 2**31 else colour


def planes() -> OddFiles:
    """f01b and f02: stacks in depth or time, and pages of one size."""
    two = np.stack([T, 255 - T])
    stack = r"(?i)plane|stack|depth|time|several images of|\bz\b|\bt\b"
    rgb: dict[str, Any] = {"photometric": "rgb", **TILED}
    grey: dict[str, Any] = {"photometric": "minisblack"}
    for axis in "ZT":
        make = partial(_ome, (two, ome_metadata(f"{axis}YXS"), rgb))
        yield OddFile(f"stack-{axis.lower()}.ome.tif", make, stack)
    make = partial(_ome, (np.stack([PLANES] * 2), ome_metadata("ZCYX"), {**TILED, **grey}))
    yield OddFile("stack-z-of-channels.ome.tif", make, stack + "|channel")
    yield OddFile("pages-grey.tif", partial(_pages, list(PLANES), **TILED, **grey), stack)
    yield OddFile("pages-rgb.tif", partial(_pages, list(two), **rgb), stack)
    yield OddFile("pages-rgb-strips.tif", partial(_pages, list(two), photometric="rgb"), stack)
    imagej: dict[str, Any] = {"imagej": True}
    for axes, samples in {"ZYX": PLANES, "TYX": PLANES, "CYX": PLANES}.items():
        make = partial(_one, samples, imagej, metadata={"axes": axes}, **grey)
        yield OddFile(f"imagej-{axes.lower()}.tif", make, stack + "|channel|ImageJ")
    make = partial(_one, T, imagej, metadata={"axes": "YXS"}, photometric="rgb", **resolution())
    yield OddFile("imagej-rgb.tif", make, T)
    for name, truncate in (("one-ifd", True), ("ifd-each", False)):
        make = partial(_one, PLANES, {}, truncate=truncate, **grey)
        yield OddFile(f"shaped-{name}.tif", make, stack)
    make = partial(_one, PLANES, {}, volumetric=True, tile=(16, 64, 64), **grey)
    yield OddFile("volume.tif", make, stack + "|volum")


def several_images() -> OddFiles:
    """f03 and f04: a label or macro beside the slide, in any order."""
    rgb: dict[str, Any] = {"photometric": "rgb", **TILED}
    small = np.ascontiguousarray((255 - T)[:96, :128])
    large = np.ascontiguousarray(np.tile(255 - T, (2, 2, 1)))

    def image(samples: Samples, name: str, mpp: tuple[float, float] = MPP) -> tuple[Any, ...]:
        return samples, ome_metadata("YXS", mpp, Name=name), rgb

    slide, macro = image(T, "slide"), image(small, "macro", (16, 16))
    yield OddFile("macro-first.ome.tif", partial(_ome, macro, slide), T, image="slide")
    yield OddFile("macro-last.ome.tif", partial(_ome, slide, macro), T, image="slide")
    for name in ("label", "macro", "thumbnail", "overview", "macro_image", "S1_label"):
        make = partial(_ome, image(large, name, (16, 16)), slide)
        yield OddFile(f"larger-{name}-first.ome.tif", make, T, image="slide")
    make = partial(_ome, slide, image(large, "Label image", (16, 16)))
    yield OddFile("larger-label-last.ome.tif", make, T, image="slide")
    for order, pages in {"last": [T, small], "first": [small, T]}.items():
        make = partial(_pages, pages, **rgb)
        yield OddFile(f"plain-other-{order}.tif", make, T)
    half = halves(T)
    for order, pages in {"last": half, "first": half[::-1]}.items():
        yield OddFile(f"plain-half-{order}.tif", partial(_pages, pages, **rgb), T)
    yield OddFile("levels-as-ome-images.ome.tif", partial(written, half, ome="YXS", **rgb), T)
    equal = partial(_ome, slide, image(255 - T, "other"))
    yield OddFile("two-equal.ome.tif", equal, r"(?i)several images of")
    label, scan = (128, 96, "label", (16.0, 16.0)), (W, H, "slide", MPP)
    one = f'<Pixels SizeX="{W}" SizeY="{H}" SizeC="3"><TiffData IFD="%d"/></Pixels>'
    xml_of_two = _ome_xml(one % 0 + one % 1)
    make = partial(_pages, [T, 255 - T], description=xml_of_two, **rgb)
    yield OddFile("two-pixels.ome.tif", make, r"(?i)several images of")
    for ifds in ((1, 0), (0, 1)):
        xml = _xml([(label, ifds[0]), (scan, ifds[1])])
        pages = [samples for _, samples in sorted(zip(ifds, (small, T), strict=True))]
        make = partial(_pages, pages, description=xml.encode(), **rgb)
        yield OddFile(f"ome-label-is-ifd-{ifds[0]}.ome.tif", make, T, image="slide")


def pixel_sizes() -> OddFiles:
    """OME-XML in other units and encodings, and of an image of another size."""
    rgb: dict[str, Any] = {"photometric": "rgb", **TILED}
    told = 'SizeX="%d" SizeY="%d" SizeC="3"'
    for name, (factor, unit, encoding, shrunk, mpp) in {
        "um": (1, "um", "UTF-8", 1, MPP),
        "mm": (1e-3, "mm", "UTF-8", 1, MPP),
        "latin-1": (1, "µm", "ISO-8859-1", 1, MPP),
        "unknown": (1, "pixel", "UTF-8", 1, None),
        "resized": (1, "µm", "UTF-8", 4, None),
    }.items():
        sizes = _sizes((MPP[0] * factor, MPP[1] * factor), unit)
        pixels = f"<Pixels {told % (W * shrunk, H * shrunk)} {sizes}/>"
        make = partial(_pages, [T], _ome_xml(pixels, encoding), **rgb)
        yield OddFile(f"unit-{name}.ome.tif", make, T, mpp)
    per_um = (1 / MPP[0], 1 / MPP[1])
    for name, unit, mpp in (
        ("micron", "micron", MPP),
        ("escaped", r"\u00B5m", MPP),
        ("pixel", "pixel", None),
        ("other-y", "um\nyunit=mm", None),
    ):
        make = partial(
            _one,
            T,
            {},
            photometric="rgb",
            metadata=None,
            resolution=per_um,
            resolutionunit="NONE",
            description=f"ImageJ=1.53t\nunit={unit}\n",
        )
        yield OddFile(f"unit-imagej-{name}.tif", make, T, mpp)


def _ome(*images: tuple[Samples, dict[str, Any], dict[str, Any]]) -> bytes:
    data = BytesIO()
    with TiffWriter(data, ome=True) as tiff:
        for samples, metadata, tags in images:
            tiff.write(samples, metadata=metadata, **tags)
    return data.getvalue()


def _pages(pages: Sequence[Samples], description: bytes | None = None, **tags: Any) -> bytes:
    data = BytesIO()
    with TiffWriter(data) as tiff:
        for index, page in enumerate(pages):
            told = None if index else description
            tiff.write(page, metadata=None, description=told, **resolution(), **tags)
    return data.getvalue()


def _one(samples: Samples, file: dict[str, Any], truncate: bool = False, **tags: Any) -> bytes:
    data = BytesIO()
    with TiffWriter(data, **file) as tiff:
        tiff.write(samples, truncate=truncate, **tags)
    return data.getvalue()


_OmeImage: TypeAlias = tuple[int, int, str, tuple[float, float]]


def _xml(images: Sequence[tuple[_OmeImage, int]]) -> str:
    """OME-XML of RGB images: width, height, name, pixel size; and the IFD of each."""
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    words = "".join(
        f'<Image ID="Image:{index}" Name="{name}"><Pixels ID="Pixels:{index}" Type="uint8"'
        f' DimensionOrder="XYCZT" SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1"'
        f' PhysicalSizeX="{x_um}" PhysicalSizeY="{y_um}"><Channel ID="Channel:{index}:0"'
        f' SamplesPerPixel="3"/><TiffData IFD="{ifd}" PlaneCount="1"/></Pixels></Image>'
        for index, ((width, height, name, (x_um, y_um)), ifd) in enumerate(images)
    )
    return f'{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{words}</OME>'


# Orientation


def orientations() -> OddFiles:
    """f05: the tag Orientation, which turns the pixel size too."""
    for number in range(1, 9):
        mpp = MPP[::-1] if number > 4 else MPP
        right = turned(T, number)
        kinds: dict[str, MakeFile] = {
            "tiled.tif": flat(T, orientation=number),
            "strips.tif": in_strips(T, orientation=number),
            "subifd.ome.tif": pyramid(T, orientation=number),
            "planar.tif": flat(PLANES, orientation=number, planarconfig="separate"),
            "pages.tif": partial(
                written, halves(T), orientation=number, **TILED, photometric="rgb"
            ),
        }
        for name, make in kinds.items():
            yield OddFile(f"orientation-{number}-{name}", make, right, mpp)


def exif_orientations() -> OddFiles:
    """f06: the same tag in the EXIF data of a picture."""
    for number in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = number
        for suffix, tolerance, options in (
            ("png", 0, {}),
            ("webp", 0, {"lossless": True}),
            ("jpg", 4, {"quality": 98, "subsampling": 0}),
        ):
            make = partial(_image, T, suffix, exif=exif, **options)
            right = turned(T, number)
            yield OddFile(f"exif-{number}.{suffix}", make, right, None, tolerance=tolerance)


def _image(samples: Samples, suffix: str, **options: Any) -> bytes:
    return _saved(Image.fromarray(samples), suffix, **options)


def _saved(image: Image.Image, suffix: str, **options: Any) -> bytes:
    data = BytesIO()
    image.save(data, "JPEG" if suffix == "jpg" else suffix, **options)
    return data.getvalue()


# Samples


def deep_samples() -> OddFiles:
    """f07: 16 bits, which need a window, and samples that nothing makes RGB."""
    deep_planes = np.ascontiguousarray(DEEP.transpose(2, 0, 1))
    fade = FADE.astype(np.uint16) * 16 + 15
    faded = np.dstack([DEEP, fade])
    shown = windowed(DEEP, 0, 4095)
    grey = as_rgb(shown[..., 1])
    black: dict[str, Any] = {"photometric": "minisblack"}
    over = over_white(shown, windowed(fade, 0, 4095))
    files = [
        *everywhere("deep-rgb", DEEP, shown),
        *everywhere("deep-grey", DEEP[..., 1], grey, "YX", **black),
        *everywhere("deep-white-is-zero", DEEP[..., 1], 255 - grey, "YX", photometric="miniswhite"),
        *everywhere("deep-planar", deep_planes, shown, "SYX", planarconfig="separate"),
        *everywhere("deep-alpha", faded, over, extrasamples=[_ALPHA]),
        OddFile("deep-rgb.png", partial(_deep_png, DEEP), shown, None),
        OddFile("deep-grey.png", partial(_deep_png, DEEP[..., 1]), grey, None),
        OddFile("deep-alpha.png", partial(_deep_png, faded), over, None),
        OddFile("deep-big-endian.tif", flat(DEEP, file={"byteorder": ">"}), shown),
    ]
    for file in files:
        stem, _, suffix = file.name.partition(".")
        yield replace(file, right="--window")
        yield replace(file, name=f"{stem}-12-bits.{suffix}", window=TWELVE_BITS)
        yield replace(file, name=f"{stem}-auto.{suffix}", window="auto")
    opaque = np.dstack([DEEP, np.full_like(fade, 65535)])
    for name, kind in {"opaque": _ALPHA, "extra-large": _UNSPECIFIED}.items():
        make = flat(opaque, extrasamples=[kind])
        yield OddFile(f"deep-{name}-auto.tif", make, shown, window="auto")
        yield OddFile(f"deep-{name}-12-bits.tif", make, shown, window=TWELVE_BITS)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    turned_png = partial(_image, DEEP[..., 1], "png", exif=exif)
    yield OddFile("deep-exif-6.png", turned_png, turned(grey, 6), None, window="auto")
    opaque_png = partial(_deep_png, np.dstack([DEEP, np.full_like(fade, 65535)]))
    yield OddFile("deep-opaque-auto.png", opaque_png, shown, None, window="auto")
    other = Window(1000, 3000)
    right = windowed(DEEP, other.low, other.high)
    yield OddFile("deep-narrow.tif", flat(DEEP), right, window=other)
    yield from _refused_samples()


def _deep_png(samples: NDArray[np.uint16]) -> bytes:
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(samples)))


def _refused_samples() -> OddFiles:
    idle = r"8 bits, so --window"
    shallow: dict[str, MakeFile] = {"tif": flat(T), "ome.tif": pyramid(T)}
    shallow["png"] = partial(_image, T, "png")
    for name, make in shallow.items():
        yield OddFile(f"shallow.{name}", make, idle, window=TWELVE_BITS)
    for dtype in ("uint32", "int8", "int16", "float16", "float32", "float64"):
        for window in (None, TWELVE_BITS, "auto"):
            name = f"{dtype}-{str(window).replace(',', '-')}"
            right = r"(?i)float|sign|int|bit|sample"
            yield OddFile(f"{name}.tif", flat(T.astype(dtype)), right, window=window)
            if dtype != "float16":  # which OME does not have
                yield OddFile(f"{name}.ome.tif", pyramid(T.astype(dtype)), right, window=window)


def extra_samples() -> OddFiles:
    """f08 and f10: samples beside the colours, some of which are alpha."""
    zero = np.zeros_like(GREY)
    faded, grey_faded = np.dstack([T, FADE]), np.dstack([GREY, FADE])
    grey: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    none, over = _UNSPECIFIED, over_white(T, FADE)
    yield from everywhere("extra", np.dstack([T, zero]), T, extrasamples=[none])
    yield from everywhere("extra-two", np.dstack([T, zero, FADE]), T, extrasamples=[none] * 2)
    yield from everywhere("alpha", faded, over, extrasamples=[_ALPHA])
    two = np.dstack([T, zero, FADE])
    yield from everywhere("alpha-second", two, over, extrasamples=[none, _ALPHA])
    pre = premultiplied_over_white(PREMULTIPLIED, FADE)
    stored = np.dstack([PREMULTIPLIED, FADE])
    yield from everywhere("premultiplied", stored, pre, extrasamples=[_PREMULTIPLIED])
    right = over_white(as_rgb(GREY), FADE)
    yield from everywhere("grey-alpha", grey_faded, right, extrasamples=[_ALPHA], **grey)
    right = as_rgb(GREY)
    yield from everywhere("grey-extra", grey_faded, right, extrasamples=[none], **grey)
    stored = np.dstack([PREMULTIPLIED[..., 1], FADE])
    right = premultiplied_over_white(as_rgb(PREMULTIPLIED[..., 1]), FADE)
    yield from everywhere(
        "grey-premultiplied", stored, right, extrasamples=[_PREMULTIPLIED], **grey
    )
    apart = np.ascontiguousarray(faded.transpose(2, 0, 1))
    how: dict[str, Any] = {"planarconfig": "separate", "extrasamples": [_ALPHA]}
    yield from everywhere("alpha-planar", apart, over, "SYX", **how)
    yield OddFile("alpha.png", partial(_image, faded, "png"), over, None)
    yield OddFile(
        "grey-alpha.png", partial(_image, grey_faded, "png"), over_white(as_rgb(GREY), FADE), None
    )


def colour_models() -> OddFiles:
    """f09 to f11: the same RGB in tiles, strips and SubIFDs."""
    indices = Image.fromarray(T).quantize(64)
    stored, colours = np.array(indices), np.zeros((256, 3), np.uint8)
    used = np.array(indices.getpalette(), np.uint8).reshape(-1, 3)
    colours[: len(used)] = used
    high_bytes = colours.astype(np.uint16) * 256 + 77  # the low byte does not count
    yield from everywhere("palette", stored, colours[stored], "YX", **colour_map(high_bytes))
    yield from everywhere("white-is-zero", GREY, 255 - as_rgb(GREY), "YX", photometric="miniswhite")
    yield from everywhere("grey", GREY, as_rgb(GREY), "YX", photometric="minisblack")
    yield from everywhere("planar", PLANES, T, "SYX", planarconfig="separate")
    yield from everywhere("cmyk", INK, by_pillow(INK, "CMYK"), photometric="separated")
    apart = np.ascontiguousarray(INK.transpose(2, 0, 1))
    separate: dict[str, Any] = {"photometric": "separated", "planarconfig": "separate"}
    yield from everywhere("cmyk-planar", apart, by_pillow(INK, "CMYK"), "SYX", **separate)
    luma = np.array(Image.fromarray(T).convert("YCbCr"))
    apart = np.ascontiguousarray(luma.transpose(2, 0, 1))
    jpeg: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 100}}
    make = flat(apart, photometric="ycbcr", planarconfig="separate", **jpeg)
    yield OddFile("ycbcr-planar-jpeg.tif", make, by_pillow(luma, "YCbCr"), tolerance=8)
    webp: dict[str, Any] = {"compression": "webp", "compressionargs": {"lossless": True}}
    opaque = np.dstack([T, np.full_like(GREY, 255)])
    yield OddFile("webp-opaque.tif", flat(opaque, extrasamples=[_ALPHA], **webp), T)
    yield from everywhere("ycbcr", luma, by_pillow(luma, "YCbCr"), photometric="ycbcr")
    for number, factors in enumerate(((2, 2), (2, 1), (1, 2))):
        other = partial(_with_subsampling, flat(luma, photometric="ycbcr"), factors)
        yield OddFile(f"ycbcr-subsampled-{number}.tif", other, r"(?i)subsampl|YCbCr|chroma")
    for name in ("cielab", "icclab", "itulab"):
        for kind, make in {
            "tiled.tif": flat(T, photometric=name),
            "strips.tif": in_strips(T, photometric=name),
            "subifd.ome.tif": pyramid(T, photometric=name),
        }.items():
            yield OddFile(f"{name}-{kind}", make, r"(?i)lab|photometric|colou?r")


def few_bits() -> OddFiles:
    """Grey and palettes of 1, 2 and 4 bits."""
    rng = np.random.default_rng(5)
    for bits in (1, 2, 4):
        values = GREY >> (8 - bits)
        scaled = as_rgb(np.asarray(values * (255 // (2**bits - 1)), np.uint8))
        how: dict[str, Any] = {"bitspersample": bits}
        name = f"bits-{bits}"
        yield from everywhere(f"{name}-grey", values, scaled, "YX", photometric="minisblack", **how)
        yield from everywhere(
            f"{name}-white-is-zero", values, 255 - scaled, "YX", photometric="miniswhite", **how
        )
        colours = rng.integers(0, 65536, (2**bits, 3), dtype=np.uint16)
        right = (colours >> 8).astype(np.uint8)[values]
        yield from everywhere(f"{name}-palette", values, right, "YX", **how, **colour_map(colours))
    two = Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)).convert("1")
    right = np.array(two.convert("RGB"))
    yield OddFile("fax.tif", partial(_saved, two, "tiff", compression="group4"), right, None)


def _with_subsampling(make: MakeFile, factors: tuple[int, int]) -> bytes:
    """With other YCbCrSubSampling; the samples themselves stay as they are."""
    data = make()
    at = data.index(_SUBSAMPLING.to_bytes(2, "little") + b"\x03\x00\x02\x00\x00\x00")
    values = b"".join(factor.to_bytes(2, "little") for factor in factors)
    return data[: at + 8] + values + data[at + 12 :]


def scanners() -> OddFiles:
    """Kinds of Aperio's files, which OpenSlide opens: read rightly or refused, never otherwise."""
    turn = [(_ORIENTATION, 3, 1, 6, True)]
    um = (0.5, 0.5)
    yield OddFile("aperio.svs", _aperio(T), T, um)
    yield OddFile("aperio-window.svs", _aperio(T), r"8 bits, so --window", window=TWELVE_BITS)
    yield OddFile("aperio-planar.svs", _aperio(PLANES, planarconfig="separate"), T, um)
    yield OddFile("aperio-deep.svs", _aperio(DEEP), r"16 bits")
    yield OddFile("aperio-orientation-6.svs", _aperio(T, extratags=turn), r"orientation")
    zero = np.dstack([T, np.zeros_like(GREY)])
    yield OddFile("aperio-extra.svs", _aperio(zero, extrasamples=[_UNSPECIFIED]), r"(?i)sample")


def _aperio(samples: Samples, **tags: Any) -> MakeFile:
    told = f"Aperio Image Library v10\r\n{W}x{H} [0,0 {W}x{H}] (64x64) RGB|AppMag = 20|MPP = 0.5"
    how: dict[str, Any] = {"photometric": "rgb", **TILED} | tags
    return partial(_pages, [samples], description=told.encode(), **how)


def pictures() -> OddFiles:
    """Pictures of colour models of their own, and those that move."""
    cmyk = Image.frombytes("CMYK", (W, H), INK.tobytes())
    right = by_pillow(INK, "CMYK")
    make = partial(_saved, cmyk, "jpg", quality=98, subsampling=0)
    yield OddFile("cmyk.jpg", make, right, None, tolerance=8)
    yield OddFile("cmyk-unmarked.jpg", partial(_without_adobe, make), r"inverted")
    yield OddFile("picture.bmp", partial(_image, T, "bmp"), T, None)
    palette = Image.fromarray(T).quantize(64)
    yield OddFile(
        "palette.png", partial(_saved, palette, "png"), np.array(palette.convert("RGB")), None
    )
    for suffix, options in {"png": {}, "webp": {"lossless": True}, "gif": {}}.items():
        frames = [Image.fromarray(255 - T)]
        make = partial(_image, T, suffix, save_all=True, append_images=frames, **options)
        moves = r"(?i)frame|anim|images|not a slide"
        yield OddFile(f"animation.{suffix}", make, moves)


def _without_adobe(make: MakeFile) -> bytes:
    """A JPEG without the marker of Adobe, by which readers know that its CMYK is inverted."""
    data = make()
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def plain() -> OddFiles:
    """f16: plain tiled RGB files, which are no odd ones.

    OpenSlide 4.0.1 cannot read uncompressed tiles whose bytes are no multiple of 1024.
    """
    yield OddFile("plain.tif", flat(T), T)
    for side in (16, 48, 240):
        for compression in (None, "deflate"):
            make = flat(T, tile=(side, side), compression=compression)
            yield OddFile(f"plain-{side}-px-{compression}.tif", make, T)


ODD_FILES = tuple(
    chain(
        plain(), channels(), planes(), several_images(), pixel_sizes(), orientations(),
        exif_orientations(), deep_samples(), extra_samples(), colour_models(), few_bits(),
        scanners(), pictures(),
    )
)  # fmt: skip
