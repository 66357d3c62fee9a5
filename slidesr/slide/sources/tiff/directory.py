"""What a TIFF directory holds: the one place that decides how its samples are to be read.

Tag numbers and their meanings are those of TIFF 6.0, and of the libtiff project for newer ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from tifffile import TIFF, TiffPage

from slidesr.geometry import Size
from slidesr.slide._orientation import Orientation

_ORIENTATION, _INK_SET = 274, 332
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532
_USUAL_COEFFICIENTS = (299, 1000, 587, 1000, 114, 1000)
_USUAL_REFERENCE = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)
_CMYK_INKS = 1
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_SEPARATE = 2
_UNCOMPRESSED = 1
_DEPTHS = (1, 2, 4, 8, 16)
JPEG_CODECS = (6, 7, 33007, 34892)
WEBP_CODECS = (34927, 50001)
_JPEG_XL = (50002, 52546)
_DECODED_AS_RGB = (*JPEG_CODECS, *WEBP_CODECS, *_JPEG_XL)  # whatever they store


class Colour(Enum):
    """The colour model of decoded samples, with their number."""

    GREY = "grey", 1
    INVERTED = "min-is-white grey", 1
    PALETTE = "palette", 1
    RGB = "RGB", 3
    YCBCR = "YCbCr", 3
    CMYK = "CMYK", 4

    @property
    def samples(self) -> int:
        return self.value[1]


class Alpha(Enum):
    """Whether a directory has an alpha sample, by the values of ExtraSamples."""

    NONE = 0
    ASSOCIATED = 1  # the colours are multiplied by it
    UNASSOCIATED = 2


_PHOTOMETRIC = {
    0: Colour.INVERTED,
    1: Colour.GREY,
    2: Colour.RGB,
    3: Colour.PALETTE,
    5: Colour.CMYK,
    6: Colour.YCBCR,
}


@dataclass(frozen=True)
class Directory:
    """A TIFF directory (IFD). `tile` is the size of its tiles, or of its strips.

    `bits` and `samples` are per pixel; `alpha_at` is the index of the alpha sample. `problem` says
    why its pixels cannot be read correctly, and is empty where they can.
    """

    page: TiffPage
    size: Size
    tile: Size
    colour: Colour
    bits: int
    samples: int
    alpha: Alpha
    alpha_at: int
    orientation: Orientation
    problem: str

    @classmethod
    def of(cls, page: TiffPage) -> Directory:
        """Raises ValueError for an empty image, and what tifffile raises on broken tags."""
        size = Size(page.imagewidth, page.imagelength)
        stored = page.is_tiled
        tile = Size(
            page.tilewidth if stored else size.width,
            page.tilelength if stored else min(page.rowsperstrip, size.height),
        )
        colour = _colour(page)
        alpha, alpha_at = _alpha(page, (colour or Colour.GREY).samples)
        return cls(
            page=page,
            size=size,
            tile=tile,
            colour=colour or Colour.GREY,
            bits=_bits(page),
            samples=page.samplesperpixel,
            alpha=alpha,
            alpha_at=alpha_at,
            orientation=Orientation.of_tag(_tag(page, _ORIENTATION, 1)),
            problem=next(_problems(page, colour, alpha), ""),
        )

    @property
    def is_reduced(self) -> bool:
        """Whether it declares itself a smaller version of another image."""
        return bool(self.page.subfiletype & _REDUCED)

    @property
    def is_grey(self) -> bool:
        return self.colour in (Colour.GREY, Colour.INVERTED)

    @property
    def is_mask(self) -> bool:
        return bool(self.page.subfiletype & _MASK)

    @property
    def is_tiled(self) -> bool:
        return bool(self.page.is_tiled)

    @property
    def planes(self) -> int:
        """The number of separate planes that hold its samples; 1 if they are interleaved."""
        return self.samples if self.page.planarconfig == _SEPARATE else 1

    @property
    def is_plain(self) -> bool:
        """Whether OpenSlide shows the same: 8-bit RGB, interleaved, compressed, as stored.

        OpenSlide 4.0.1 fails on uncompressed tiles whose bytes are no multiple of 1024.
        """
        return (
            not self.problem
            and self.page.compression != _UNCOMPRESSED
            and self.colour is Colour.RGB
            and (self.bits, self.samples, self.planes) == (8, 3, 1)
            and self.orientation.is_as_stored
        )

    @property
    def conversions(self) -> Iterator[str]:
        """What is done to its samples, in words for the user; nothing to plain RGB."""
        if self.colour is not Colour.RGB:
            yield f"{self.colour.value[0]} to RGB"
        if self.planes > 1:
            yield "separate planes of samples joined"
        if self.alpha is not Alpha.NONE:
            yield f"{self.alpha.name.lower()} alpha over white"
        extra = self.samples - self.colour.samples - (self.alpha is not Alpha.NONE)
        if extra > 0:
            yield f"{extra} extra sample{'s' if extra > 1 else ''} without a meaning left out"
        if not self.orientation.is_as_stored:
            yield "turned by its orientation tag"


def _tag(page: TiffPage, code: int, default: Any) -> Any:
    return page.tags.valueof(code, default)


def _bits(page: TiffPage) -> int:
    """Of each sample; 0 where they differ."""
    bits = page.bitspersample
    return int(bits) if isinstance(bits, int) else 0


def _colour(page: TiffPage) -> Colour | None:
    colour = _PHOTOMETRIC.get(int(page.photometric))
    if colour is Colour.YCBCR and page.compression in _DECODED_AS_RGB:
        return colour if page.planarconfig == _SEPARATE else Colour.RGB
    return colour


def _alpha(page: TiffPage, colours: int) -> tuple[Alpha, int]:
    """The kind and index of the first extra sample that is declared as alpha."""
    for at, kind in enumerate(page.extrasamples):
        if kind in (Alpha.ASSOCIATED.value, Alpha.UNASSOCIATED.value):
            return Alpha(int(kind)), colours + at
    return Alpha.NONE, 0


def _problems(page: TiffPage, colour: Colour | None, alpha: Alpha) -> Iterator[str]:
    """The reasons, if any, why the pixels cannot be read correctly."""
    if page.imagedepth != 1:
        yield f"it is a volume of {page.imagedepth} planes"
    if colour is None:
        name = getattr(page.photometric, "name", page.photometric)
        yield f"its photometric interpretation is {name}, not RGB, grey, palette or CMYK"
        return
    yield from _sample_problems(page, colour, alpha)
    if page.compression not in TIFF.DECOMPRESSORS and page.compression != _UNCOMPRESSED:
        name = getattr(page.compression, "name", page.compression)
        yield f"its compression, {name}, is not supported"
    if colour is Colour.YCBCR and not _is_usual_ycbcr(page):
        yield "its YCbCr is subsampled or unusual, which is supported with JPEG alone"
    if colour is Colour.CMYK:
        if _tag(page, _INK_SET, _CMYK_INKS) != _CMYK_INKS:
            yield "its inks are not cyan, magenta, yellow and black"
        if page.compression in JPEG_CODECS:
            yield "it is CMYK in JPEG, which writers invert or not"


def _sample_problems(page: TiffPage, colour: Colour, alpha: Alpha) -> Iterator[str]:
    bits, dtype = _bits(page), page.dtype
    if bits not in _DEPTHS:
        yield f"its samples have {page.bitspersample} bits, not 1, 2, 4, 8 or 16"
    elif dtype is None or dtype.kind not in "bu":
        yield f"its samples are {dtype}, not unsigned integers of 8 or 16 bits"
    elif bits < 8 and colour not in (Colour.GREY, Colour.INVERTED, Colour.PALETTE):
        yield f"its samples have {bits} bits, which is supported for grey and palettes alone"
    elif colour is Colour.PALETTE and (bits > 8 or page.colormap is None):
        yield f"its palette has {bits} bits, or no colours"
    elif colour is Colour.CMYK and bits != 8:
        yield f"it is CMYK of {bits} bits, which is supported with 8 alone"
    if page.samplesperpixel < colour.samples:
        yield f"it has {page.samplesperpixel} samples a pixel, fewer than {colour.value[0]} needs"
    if colour.samples == 1 and page.samplesperpixel > 2:
        yield (
            f"it has {page.samplesperpixel} samples a pixel, which it does not declare as RGB."
            " Merge or select channels first"
        )
    if alpha is Alpha.ASSOCIATED and colour not in (Colour.RGB, Colour.GREY):
        yield f"it is {colour.value[0]} multiplied by alpha"


def _is_usual_ycbcr(page: TiffPage) -> bool:
    """Whether each pixel has its own Y, Cb and Cr, by the coefficients of CCIR 601."""
    return (
        _tag(page, _YCBCR_SUBSAMPLING, (2, 2)) == (1, 1)
        and _tag(page, _YCBCR_COEFFICIENTS, _USUAL_COEFFICIENTS) == _USUAL_COEFFICIENTS
        and _tag(page, _REFERENCE_BLACK_WHITE, _USUAL_REFERENCE) == _USUAL_REFERENCE
        and page.dtype == np.uint8
    )
