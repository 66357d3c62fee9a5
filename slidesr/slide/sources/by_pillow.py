"""Plain images: PNG, JPEG, WebP, BMP and PPM, read by Pillow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Lock
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Pixels, Size
from slidesr.imaging.window import Window, WindowChoice
from slidesr.runtime.paths import IMAGE_FORMATS
from slidesr.slide._orientation import Orientation
from slidesr.slide.sources.source import (
    WHITE,
    About,
    Choice,
    chosen_window,
    levels_from_sizes,
    over_background,
    refuse_window,
    unreadable,
)

_MAX_PX = 2**28  # a gigabyte
_MAX_PX_PER_BYTE = 1000  # of a JPEG: plain white takes one byte for 200 px
_MAX_SCANS = 64  # of a progressive JPEG: each scan takes as long as the whole image; ten are usual
_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_ORIENTATION = 274  # of EXIF
_FORMATS = tuple(name for name in IMAGE_FORMATS if name != "TIFF")

_limit_lock = Lock()


class ImageSource:
    """An image held in memory: at most 4 bytes a pixel and 268 megapixels.

    It is turned as its EXIF orientation says, and composited over white where it is transparent.
    """

    def __init__(self, path: Path, window: WindowChoice = None) -> None:
        with opened_image(path) as image:
            has_16_bits = _has_16_bits(image)  # before the EXIF, for which Pillow decodes a PNG
            _check(path, image, has_16_bits=has_16_bits)
            about = _about(image)
            if has_16_bits:
                used, image_8 = _windowed(path, image, window)
                about = replace(about, window=used)
            else:
                refuse_window(path, window)
                image.load()
                image_8 = image
            self._image = ImageOps.exif_transpose(image_8)
        self.about = about

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the image, which is the only level."""
        part = self._image.crop((box.x, box.y, box.right, box.bottom))
        return over_background(part, WHITE)

    def close(self) -> None:
        """Does nothing: the file is closed already."""


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """A plain image whose pixels are not yet decoded. Raises RefusedError for other files."""
    try:
        with _without_pixel_limit():
            image = Image.open(path, formats=_FORMATS)
        with image:
            yield image
    except (RefusedError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise unreadable(path, "unknown format") from error
    except Exception as error:  # Pillow's decoders raise anything on a broken file
        raise unreadable(path, error) from error


def shown_size(image: Image.Image) -> Size:
    """The size of an image once it is turned as its EXIF orientation says."""
    return _orientation(image).size(Size(image.width, image.height))


@contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Lifts Pillow's limit, a third of ours, which warns instead of raising."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check(path: Path, image: Image.Image, *, has_16_bits: bool) -> None:
    if image.width * image.height > _MAX_PX:
        raise RefusedError(
            f"{path}: an image of {image.width} x {image.height} px would be held in memory whole. "
            "Convert it to a tiled TIFF, for example with vips tiffsave --tile --pyramid."
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a photograph of a phone, with its depth map
        raise unreadable(path, f"it is an animation or a stack of {frames} pictures")
    if not has_16_bits and image.mode not in _EIGHT_BIT_MODES:
        raise unreadable(path, f"its pixels are {image.mode}, not 8-bit")
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise unreadable(path, "it is CMYK in JPEG, which does not say whether it is inverted")
    held = path.stat().st_size
    if image.format == "JPEG" and image.width * image.height > _MAX_PX_PER_BYTE * held:
        raise unreadable(path, f"{held} bytes cannot hold {image.width} x {image.height} px")
    if image.info.get("progressive") and _scans(path) > _MAX_SCANS:
        raise unreadable(path, f"its JPEG has more than {_MAX_SCANS} scans")


def _scans(path: Path) -> int:
    """The number of scans in a JPEG; entropy-coded data contains no marker."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return sum(1 for _ in re.finditer(rb"\xff\xda", data))


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the samples have 16 bits, of which Pillow would drop the lower ones in silence.

    Its raw modes say so, such as `RGB;16B` of a PNG; a PPM states its largest sample.
    """
    for _, _, _, arguments in getattr(image, "tile", ()):
        raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
        if ";16" in str(raw) or (image.format == "PPM" and max(_numbers(rest), default=0) > 255):
            return True
    return image.mode.startswith("I")


def _numbers(values: Sequence[object]) -> Iterator[int]:
    return (each for each in values if isinstance(each, int))


def _windowed(path: Path, image: Image.Image, choice: WindowChoice) -> tuple[Window, Image.Image]:
    """The window that is used, and the image with 8 bits."""
    if image.format != "PNG":
        raise unreadable(path, "its samples have 16 bits. Convert it to TIFF or PNG")
    samples = cache(lambda: imagecodecs.png_decode(path.read_bytes()))
    window = chosen_window(path, choice, lambda: int(_colours(samples()).max()))
    shown = Image.fromarray(np.squeeze(window.to_8_bit(samples())))
    shown.getexif().update(image.getexif())
    return window, shown


def _colours(samples: NDArray[Any]) -> NDArray[Any]:
    """The samples of a PNG without its alpha."""
    has_alpha = samples.ndim == 3 and samples.shape[2] in (2, 4)
    return samples[..., :-1] if has_alpha else samples


def _orientation(image: Image.Image) -> Orientation:
    value = image.getexif().get(_ORIENTATION, 1)
    return Orientation.of_tag(value if isinstance(value, int) else 1)


def _about(image: Image.Image) -> About:
    turned = not _orientation(image).is_as_stored
    conversions = ["turned by its EXIF orientation"] if turned else []
    conversions += [] if image.mode == "RGB" else [f"{image.mode} to RGB"]
    return About(
        vendor=(image.format or "image").lower(),
        levels=levels_from_sizes([shown_size(image)]),
        icc_profile=image.info.get("icc_profile"),
        choice=Choice(conversions=tuple(conversions)),
    )
