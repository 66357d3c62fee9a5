"""Colours under an ICC profile: from a scanner's own to sRGB, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from slidesr.geometry import Pixels

ICC_CHOICES = ("keep", "srgb", "drop")
"""`keep`: pixels and profile as they are. `srgb`: pixels converted, tagged as sRGB. `drop`: pixels
as they are, no profile, so that a viewer that manages colours shows others than before."""


_DATE = slice(24, 36)  # of an ICC header: when the profile was made, six u16
_OF_THE_STANDARD = bytes.fromhex("07cf 000a 0012 0000 0000 0000")  # IEC 61966-2-1, 18 October 1999


class ProfileError(ValueError):
    """Not an ICC profile, or not one of RGB pixels."""


@cache
def srgb_profile() -> bytes:
    """The sRGB profile; the same bytes at any time, though Little CMS would date it now."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[_DATE] = _OF_THE_STANDARD
    return bytes(made)


def profile_name(profile: bytes) -> str:
    """What a profile calls itself. Raises ProfileError."""
    try:
        return ImageCms.getProfileDescription(_opened(profile)).strip()
    except ImageCms.PyCMSError as error:
        raise ProfileError(str(error)) from error


def to_srgb(profile: bytes) -> Callable[[Pixels], Pixels]:
    """A conversion to sRGB: u8[h, w, 3] -> u8[h, w, 3]; for every pixel alone, in any thread.

    The intent is the profile's own, as OpenSlide's documentation has it. Raises ProfileError.
    """
    try:
        source = _opened(profile)
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        transform = ImageCms.buildTransform(source, _opened(srgb_profile()), "RGB", "RGB", intent)
    except ImageCms.PyCMSError as error:
        raise ProfileError(str(error)) from error

    def convert(pixels: Pixels) -> Pixels:
        if not pixels.size:
            return pixels
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.array(transform.apply(image))

    return convert


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile))
    except (OSError, TypeError) as error:
        raise ProfileError(str(error)) from error
