"""A slide under another colour profile than its file's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Pixels
from slidesr.imaging.icc import ICC_CHOICES, ProfileError, profile_name, srgb_profile, to_srgb
from slidesr.slide._source import About, Source

_log = logging.getLogger(__name__)


def under_profile(path: Path, source: Source, choice: str) -> Source:
    """The source under the profile that is chosen, one of ICC_CHOICES; warns where colours change.

    Raises RefusedError where the file's profile is broken and is to be converted from.
    """
    if choice not in ICC_CHOICES:
        raise ValueError(f"icc {choice!r} is not one of {', '.join(ICC_CHOICES)}")
    profile = source.about.icc_profile
    if choice == "keep":
        return source
    if profile is None:
        _log.warning("%s: has no ICC profile, so its colours stay as they are", path.name)
        return source
    if choice == "drop":
        _warn_of_drop(path, profile)
        return _Other(source, replace(source.about, icc_profile=None), lambda pixels: pixels)
    try:
        convert = to_srgb(profile)
    except ProfileError as error:
        raise RefusedError(
            f"{path}: its ICC profile cannot be used: {error}. Leave it with --icc keep,"
            " or leave it out with --icc drop."
        ) from error
    return _Other(source, replace(source.about, icc_profile=srgb_profile()), convert)


class _Other:
    """A source whose pixels go through a conversion that knows nothing but the pixel."""

    def __init__(self, source: Source, about: About, convert: Callable[[Pixels], Pixels]) -> None:
        self._source, self.about, self._convert = source, about, convert

    def read(self, level: int, box: Box) -> Pixels:
        return self._convert(self._source.read(level, box))

    def close(self) -> None:
        self._source.close()


def _warn_of_drop(path: Path, profile: bytes) -> None:
    try:
        name = profile_name(profile)
    except ProfileError:
        return
    _log.warning(
        "%s: its ICC profile (%s) is left out; viewers that manage colours will show others",
        path.name,
        name,
    )
