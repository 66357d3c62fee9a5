"""One multiscale image: its version, axes, levels and pixel size."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from slidesr.errors import printable
from slidesr.geometry import Mpp, Size
from slidesr.slide._metadata import mpp_from_um
from slidesr.slide._units import um_from_unit
from slidesr.slide.sources.ngff.words import Array, UnfitError, Words, array_at, objects

_log = logging.getLogger(__name__)
_VERSION = re.compile(r"0\.[1-5](?:[^\d].*)?")  # also 0.5.2 and 0.4-dev
_WITHOUT_AXES = ("", "0.1", "0.2")
_PLANE, _CHANNEL = ("y", "x"), "c"
_UNSCALED = ("identity", "translation")


@dataclass(frozen=True)
class Multiscale:
    """An image of a group; `axes` are their names in stored order, among them y and x."""

    words: Words
    levels: tuple[Array, ...]
    axes: tuple[str, ...]

    @property
    def sizes(self) -> list[Size]:
        return [Size(self.side(array, "x"), self.side(array, "y")) for array in self.levels]

    @property
    def channel_count(self) -> int:
        return self.side(self.levels[0], _CHANNEL)

    def side(self, array: Array, axis: str) -> int:
        """The length of an axis; 1 where the array lacks it."""
        return array.shape[self.axes.index(axis)] if axis in self.axes else 1


def open_multiscale(group: zarr.Group, of_group: Words, words: Words) -> Multiscale:
    """The image that `words` describe, of any shape. Raises UnfitError if it makes no sense."""
    version = str(words.get("version") or of_group.get("version") or "")
    if version and not _VERSION.fullmatch(version):
        raise UnfitError(f"its NGFF version is {printable(version)}; slidesr reads 0.1 to 0.5")
    if "image-label" in of_group:
        raise UnfitError("it is a label image: its samples are numbers of objects, not colours")
    levels = tuple(array_at(group, each.get("path")) for each in objects(words, "datasets"))
    if not levels:
        raise UnfitError("its list of levels (datasets) is empty")
    axes = _axes(words, version, levels[0].ndim)
    for array in levels:
        _check_axes(axes, array)
    return Multiscale(words, levels, axes)


def check_planes(image: Multiscale) -> None:
    """Refuses other axes longer than 1, and levels that store something else than level 0 does."""
    first = image.levels[0]
    for index, array in enumerate(image.levels):
        for name, length in zip(image.axes, array.shape, strict=True):
            if name not in (*_PLANE, _CHANNEL) and length != 1:
                raise UnfitError(
                    f"its axis {printable(name)} has {length} planes, and slidesr reads one. "
                    "Save the one that you want as a store of its own"
                )
        if _kind(array) != _kind(first) or image.side(array, _CHANNEL) != image.channel_count:
            raise UnfitError(f"its level {index} differs from level 0 in type or channels")
    if first.dtype.kind != "u" or first.dtype.itemsize > 2:
        raise UnfitError(f"its samples are {_kind(first)}, not unsigned with 8 or 16 bits")


def pixel_size(path: Path, image: Multiscale) -> Mpp | None:
    """From the scale of level 0 times that of the whole image; None without units that are known.

    Warns where a store has a scale that does not say how large a pixel is.
    """
    first = objects(image.words, "datasets")[0]
    told = [
        each for part in (first, image.words) for each in objects(part, "coordinateTransformations")
    ]
    used = [each for each in told if each.get("type") not in _UNSCALED]
    scales = [_scale(each, len(image.axes)) for each in used if "scale" in each]
    if len(scales) < len(used):
        _log.warning("%s: its pixel size is unknown: it has transformations besides scale", path)
        return None
    if not scales:
        return None
    scale = [math.prod(each) for each in zip(*scales, strict=True)]
    return _sized(path, image, dict(zip(image.axes, scale, strict=True)))


def _axes(words: Words, version: str, dimensions: int) -> tuple[str, ...]:
    """The names of the axes, which are objects from 0.4 on, and words in 0.3."""
    told = words.get("axes")
    if told is None and version in _WITHOUT_AXES and dimensions == len("tczyx"):
        return tuple("tczyx")
    if not isinstance(told, list) or not told:
        raise UnfitError("its axes have no names")
    names = tuple(_axis_name(axis) for axis in told)
    if len(set(names)) < len(names) or not {*_PLANE} <= {*names}:
        shown = printable(", ".join(names))
        raise UnfitError(f"its axes are {shown}, not y and x once each, and others besides")
    return names


def _axis_name(axis: object) -> str:
    if isinstance(axis, str):
        return axis.lower()
    name = axis.get("name") if isinstance(axis, dict) else None
    if not isinstance(axis, dict) or not isinstance(name, str):
        raise UnfitError("its axes have no names")
    name = name.lower()
    return _CHANNEL if axis.get("type") == "channel" and name not in "tczyx" else name


def _check_axes(axes: Sequence[str], array: Array) -> None:
    """Refuses an array whose own names of its dimensions, if it has any, are in another order."""
    if len(axes) != array.ndim:
        raise UnfitError(f"its axes are {', '.join(axes)}, but an array has {array.ndim}")
    own = getattr(array.metadata, "dimension_names", None) or ()
    named = [str(name).lower() for name in own]
    if sorted(named) == sorted(axes) and named != list(axes):
        raise UnfitError(
            f"its axes are {', '.join(axes)}, but an array calls them {', '.join(named)}"
        )


def _kind(array: Array) -> np.dtype[np.generic]:
    """The type of the samples, whatever their byte order."""
    kind: np.dtype[np.generic] = array.dtype.newbyteorder("=")
    return kind


def _scale(transformation: Words, count: int) -> list[float]:
    told = transformation["scale"]
    if not isinstance(told, list) or len(told) != count:
        raise UnfitError("its scale is not one number for each axis")
    try:
        return [float(each) for each in told]
    except (TypeError, ValueError) as error:
        raise UnfitError("its scale is not one number for each axis") from error


def _sized(path: Path, image: Multiscale, scale: Mapping[str, float]) -> Mpp | None:
    told = image.words.get("axes") or [None] * len(image.axes)
    units = dict(zip(image.axes, map(_unit, told), strict=True))
    factors = {name: um_from_unit(units[name]) for name in "xy"}
    um = {name: None if um is None else scale[name] * um for name, um in factors.items()}
    unknown = [units[name] for name in "xy" if factors[name] is None]
    if any(unknown) or (unknown and any(scale[name] != 1 for name in "xy")):
        shown = " and ".join(f"the unit {unit!r}" if unit else "no unit" for unit in set(unknown))
        _log.warning("%s: its pixel size is unknown: its scale has %s", path, printable(shown))
    return mpp_from_um(path, um["x"], um["y"])


def _unit(axis: object) -> str:
    """The unit of an axis; empty where it has none."""
    return str(axis.get("unit") or "") if isinstance(axis, Mapping) else ""
