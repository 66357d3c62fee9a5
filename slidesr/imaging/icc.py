"""ICC profiles, and the conversion of pixels from a scanner's profile to sRGB."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from slidesr.geometry import Pixels

ICC_CHOICES = ("keep", "srgb", "drop")
"""`keep`: pixels and profile unchanged. `srgb`: pixels converted and tagged as sRGB. `drop`: pixels
unchanged, no profile, so that a colour-managed viewer shows different colours."""

_IMAGE_CLASSES = ("scnr", "mntr", "prtr", "spac")  # the others link, adjust or name colours
_DATE = slice(24, 36)  # of an ICC header: creation date, six u16
_STANDARD_DATE = bytes.fromhex("07cf 000a 0012 0000 0000 0000")  # IEC 61966-2-1, 18 October 1999


class ProfileError(ValueError):
    """Not an ICC profile, or not one of RGB pixels; the message follows "its ICC profile"."""


@cache
def srgb_profile() -> bytes:
    """The sRGB profile, always the same bytes; Little CMS would store the current date."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_DATE] = _STANDARD_DATE
    return bytes(profile)


def profile_name(profile: bytes) -> str:
    """The description stored in a profile. Raises ProfileError where it cannot be read."""
    return (_opened(profile).profile.profile_description or "unnamed").strip()


def pixel_space(profile: bytes) -> str:
    """The colour space of the pixels that a profile is for: RGB, GRAY, CMYK, Lab, ...

    Raises ProfileError where it cannot be read, or is not for the pixels of an image.
    """
    return _space_of(_opened(profile))


def to_srgb(profile: bytes) -> Callable[[Pixels], Pixels]:
    """Returns a pixelwise, thread-safe conversion to sRGB: u8[h, w, 3] -> u8[h, w, 3].

    The intent is the profile's own, as OpenSlide's documentation recommends. Raises ProfileError
    where there is none: so whatever this takes is a usable profile of RGB pixels.
    """
    source = _opened(profile)
    space = _space_of(source)
    if space != "RGB":
        raise ProfileError(f"is for {space} pixels, not RGB")
    try:
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        transform = ImageCms.buildTransform(source, _opened(srgb_profile()), "RGB", "RGB", intent)
    except (ImageCms.PyCMSError, ValueError) as error:
        raise _broken(error) from error

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
        raise _broken(error) from error


def _space_of(opened: ImageCms.ImageCmsProfile) -> str:
    try:
        kind, space = opened.profile.device_class, opened.profile.xcolor_space
    except ValueError as error:  # four bytes that are not ASCII
        raise _broken(error) from error
    if kind not in _IMAGE_CLASSES:
        raise ProfileError(f"is of class {kind.strip()!r}, which is not for pixels of images")
    return space.strip()


def _broken(error: Exception) -> ProfileError:
    return ProfileError(f"is broken: {error}")
