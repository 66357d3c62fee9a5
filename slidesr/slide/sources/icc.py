"""Keeps, drops or converts the ICC profile of a slide."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Pixels
from slidesr.imaging.icc import ICC_CHOICES, ProfileError, profile_name, srgb_profile, to_srgb
from slidesr.slide.sources.source import About, Source

_log = logging.getLogger(__name__)


def under_profile(path: Path, source: Source, choice: str) -> Source:
    """The source with its profile handled as `choice` of ICC_CHOICES; warns where colours change.

    Raises RefusedError where pixels must be converted and the file's profile is broken.
    """
    if choice not in ICC_CHOICES:
        raise ValueError(f"icc {choice!r} is not one of {', '.join(ICC_CHOICES)}")
    profile = source.about.icc_profile
    if choice == "keep":
        return source
    if profile is None:
        _log.warning("%s: has no ICC profile, so its colours are unchanged", path.name)
        return source
    if choice == "drop":
        _warn_of_drop(path, profile)
        return _ConvertedSource(
            source, replace(source.about, icc_profile=None), lambda pixels: pixels
        )
    try:
        convert = to_srgb(profile)
    except ProfileError as error:
        raise RefusedError(
            f"{path}: its ICC profile cannot be used: {error}. Copy it with --icc keep,"
            " or remove it with --icc drop."
        ) from error
    return _ConvertedSource(source, replace(source.about, icc_profile=srgb_profile()), convert)


class _ConvertedSource:
    """A source with a pixelwise colour conversion."""

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
        "%s: its ICC profile (%s) is dropped; colour-managed viewers will show other colours",
        path.name,
        name,
    )
