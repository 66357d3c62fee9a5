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

    So a slide has a usable profile of RGB pixels, or none: any other is left out with a warning.
    Raises RefusedError where pixels must be converted and the profile cannot be used for that.
    """
    if choice not in ICC_CHOICES:
        raise ValueError(f"icc {choice!r} is not one of {', '.join(ICC_CHOICES)}")
    profile = source.about.icc_profile
    if profile is None:
        if choice != "keep":
            _log.warning("%s: has no ICC profile, so its colours are unchanged", path.name)
        return source
    try:
        convert = to_srgb(profile)
    except ProfileError as error:
        if choice == "srgb":
            raise RefusedError(
                f"{path}: its ICC profile {error}. Leave it out with --icc drop."
            ) from error
        _log.warning("%s: its ICC profile %s, and is left out", path.name, error)
        return _without_profile(source)
    if choice == "drop":
        _warn_of_drop(path, profile)
        return _without_profile(source)
    if choice == "srgb":
        return _ConvertedSource(source, replace(source.about, icc_profile=srgb_profile()), convert)
    return source


def _without_profile(source: Source) -> Source:
    return _ConvertedSource(source, replace(source.about, icc_profile=None), lambda pixels: pixels)


class _ConvertedSource:
    """A source with a pixelwise colour conversion."""

    def __init__(self, source: Source, about: About, convert: Callable[[Pixels], Pixels]) -> None:
        self._source, self.about, self._convert = source, about, convert

    def read(self, level: int, box: Box) -> Pixels:
        return self._convert(self._source.read(level, box))

    def close(self) -> None:
        self._source.close()


def _warn_of_drop(path: Path, profile: bytes) -> None:
    _log.warning(
        "%s: its ICC profile (%s) is dropped; colour-managed viewers will show other colours",
        path.name,
        profile_name(profile),
    )
