"""Plain images: PNG, JPEG, WebP, untiled TIFF and others that Pillow reads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, TiffImageFile

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.runtime.paths import IMAGE_FORMATS
from slidesr.slide._metadata import mpp_from_tiff_tags
from slidesr.slide.sources.source import (
    WHITE,
    About,
    levels_from_sizes,
    over_background,
    unreadable,
)

_MAX_PX = 2**28  # a gigabyte
_MAX_PX_PER_BYTE = 1000  # of a JPEG: plain white takes one byte for 200 px
_MAX_SCANS = 64  # of a progressive JPEG: each scan takes as long as the whole image; ten are usual
_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}

_limit_lock = Lock()


class ImageSource:
    """An image held in memory by Pillow: at most 4 bytes a pixel and 268 megapixels."""

    def __init__(self, path: Path) -> None:
        try:
            with _without_pixel_limit():
                image = Image.open(path, formats=IMAGE_FORMATS)
            with image:
                _check(path, image)
                self.about = _about(path, image)
                with _stderr_muted() if image.format == "TIFF" else nullcontext():
                    image.load()
                self._image = image
        except (RefusedError, MemoryError):
            raise
        except UnidentifiedImageError as error:
            raise unreadable(path, "unknown format") from error
        except Exception as error:  # Pillow's decoders raise anything on a broken file
            raise unreadable(path, error) from error

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the image, which is the only level."""
        part = self._image.crop((box.x, box.y, box.right, box.bottom))
        return over_background(part, WHITE)

    def close(self) -> None:
        """Does nothing: the file is closed already."""


@contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Lifts Pillow's limit, a third of ours, which warns instead of raising."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _stderr_muted() -> Iterator[None]:
    """Redirects file descriptor 2: Pillow's libtiff writes to it directly, past Python."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _check(path: Path, image: Image.Image) -> None:
    if image.width * image.height > _MAX_PX:
        raise RefusedError(
            f"{path}: an image of {image.width} x {image.height} px would be held in memory whole. "
            "Convert it to a tiled TIFF, for example with vips tiffsave --tile --pyramid."
        )
    if image.mode not in _EIGHT_BIT_MODES:
        raise unreadable(path, f"its pixels are {image.mode}, not 8-bit")
    held = path.stat().st_size
    if image.format == "JPEG" and image.width * image.height > _MAX_PX_PER_BYTE * held:
        raise unreadable(path, f"{held} bytes cannot hold {image.width} x {image.height} px")
    if image.info.get("progressive") and _scans(path) > _MAX_SCANS:
        raise unreadable(path, f"its JPEG has more than {_MAX_SCANS} scans")


def _scans(path: Path) -> int:
    """The number of scans in a JPEG; entropy-coded data contains no marker."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return sum(1 for _ in re.finditer(rb"\xff\xda", data))


def _about(path: Path, image: Image.Image) -> About:
    size = Size(image.width, image.height)
    return About(
        vendor=(image.format or "image").lower(),
        levels=levels_from_sizes([size]),
        mpp=_mpp(path, image),
        icc_profile=image.info.get("icc_profile"),
    )


def _mpp(path: Path, image: Image.Image) -> Mpp | None:
    """From the tags of a TIFF; the resolution of a PNG or JPEG is for screen and print."""
    if not isinstance(image, TiffImageFile):
        return None
    x, y, unit = (image.tag_v2.get(tag, 0) for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT))
    return mpp_from_tiff_tags(path, float(x), float(y), int(unit))
