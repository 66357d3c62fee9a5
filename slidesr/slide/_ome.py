"""The images that OME-XML describes: names, planes, channels, pixel sizes and magnifications."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from slidesr.errors import printable
from slidesr.geometry import Mpp
from slidesr.runtime.untrusted_xml import XMLError, xml_root
from slidesr.slide._metadata import Resolution, mpp_from_um, number
from slidesr.slide._units import um_from_unit

_log = logging.getLogger(__name__)
MAX_DIRECTORIES = 4096  # more are in no slide
_PRIMARIES = {0xFF0000: "R", 0x00FF00: "G", 0x0000FF: "B"}
_NAMES = {"red": "R", "green": "G", "blue": "B", "r": "R", "g": "G", "b": "B"}


@dataclass(frozen=True)
class _Range:
    """TiffData: its first directory, first channel and number of planes, as stated."""

    directory: int | None = None
    channel: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class OmeImage:
    """An image of an OME-TIFF.

    `primaries` names its channels R, G and B in their order, where names or colours say so.
    `is_elsewhere`: a part of the image lies in another file.
    """

    name: str
    size_x: int | None
    size_y: int | None
    size_c: int
    size_z: int
    size_t: int
    primaries: str
    is_elsewhere: bool
    resolution: Resolution
    _ranges: tuple[_Range, ...]

    def planes(self, samples: int) -> int:
        """The number of its planes, where a directory has `samples` a pixel."""
        return max(1, self.size_c // samples) * self.size_z * self.size_t

    def directories(self, samples: int) -> tuple[int, ...]:
        """The positions of its planes in the main chain, fewer than `planes` if some are missing.

        In the order of their channels. Without TiffData, or without IFD in it, they are numbered
        from 0.
        """
        planes = min(self.planes(samples), MAX_DIRECTORIES)
        has_order = any(each.channel is not None for each in self._ranges)
        found: dict[int, int] = {}
        for each in self._ranges or (_Range(),):
            start = len(found) if each.directory is None else each.directory
            length = each.count or (planes if each.directory is None else 1)
            first = (each.channel or 0) // samples if has_order else len(found)
            for plane in range(first, min(first + length, planes)):
                found.setdefault(plane, start + plane - first)
        return tuple(found[plane] for plane in sorted(found))


def parse_ome(path: Path, xml: str) -> tuple[OmeImage, ...]:
    """The images in the order of the XML; none, with a warning, where it is invalid.

    https://www.openmicroscopy.org/Schemas/Documentation/Generated/OME-2016-06/ome.html
    """
    try:
        root = xml_root(xml)
    except XMLError as error:
        _log.warning("%s: its OME-XML is invalid: %s", path, printable(str(error)))
        return ()
    if root.find("{*}BinaryOnly") is not None:
        _log.warning("%s: its OME-XML is in another file, so what that says is unknown", path)
    return tuple(_images(path, root))


def _images(path: Path, root: etree._Element) -> Iterator[OmeImage]:
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        image = pixels.getparent()
        yield OmeImage(
            name=image.get("Name", ""),
            size_x=_whole(pixels.get("SizeX")),
            size_y=_whole(pixels.get("SizeY")),
            size_c=_whole(pixels.get("SizeC")) or _samples(pixels),
            size_z=_count(pixels, "SizeZ"),
            size_t=_count(pixels, "SizeT"),
            primaries=_primaries(pixels),
            is_elsewhere=_is_elsewhere(root, pixels),
            resolution=Resolution(_mpp(path, pixels.attrib), _magnification(root, image)),
            _ranges=tuple(
                _Range(*(_whole(data.get(name)) for name in ("IFD", "FirstC", "PlaneCount")))
                for data in pixels.findall("{*}TiffData")
            ),
        )


def _primaries(pixels: etree._Element) -> str:
    """R, G and B in the order of the channels; empty unless all three are there, once each.

    Also where names and colours contradict each other.
    """
    channels = list(pixels.iter("{*}Channel"))
    stated = ("".join(map(find, channels)) for find in (_primary_by_name, _primary_by_colour))
    found = {letters for letters in stated if sorted(letters) == ["B", "G", "R"]}
    return found.pop() if len(found) == 1 else ""


def _samples(pixels: etree._Element) -> int:
    """SizeC from the channels, where it is not stated."""
    channels = pixels.iter("{*}Channel")
    return sum(_count(channel, "SamplesPerPixel") for channel in channels) or 1


def _primary_by_name(channel: etree._Element) -> str:
    return _NAMES.get(channel.get("Name", "").strip().lower(), "")


def _primary_by_colour(channel: etree._Element) -> str:
    """From RGBA in a signed 32-bit integer."""
    try:
        return _PRIMARIES.get((int(channel.get("Color", "")) & 0xFFFFFFFF) >> 8, "")
    except ValueError:
        return ""


def _is_elsewhere(root: etree._Element, pixels: etree._Element) -> bool:
    """Whether a plane's UUID is not that of this document."""
    own = root.get("UUID")
    uuids = {(each.text or "").strip() for each in pixels.iterfind("{*}TiffData/{*}UUID")}
    return bool(uuids - {own}) if own else len(uuids) > 1


def _mpp(path: Path, attributes: Mapping[str, str]) -> Mpp | None:
    names = [f"PhysicalSize{axis}" for axis in "XY"]
    sides = [number(attributes.get(name)) for name in names]
    units = [attributes.get(f"{name}Unit", "µm") for name in names]
    x_um, y_um = map(_um, sides, units)
    if None not in sides and None in (x_um, y_um):
        unit = printable(" and ".join(dict.fromkeys(units)))
        _log.warning("%s: its pixel size is unknown: its unit is %s", path, unit)
    return mpp_from_um(path, x_um, y_um)


def _um(side: float | None, unit: str) -> float | None:
    factor = um_from_unit(unit)
    return None if side is None or factor is None else side * factor


def _magnification(root: etree._Element, image: etree._Element) -> float | None:
    settings = image.find("{*}ObjectiveSettings")
    objectives = {o.get("ID"): o.get("NominalMagnification") for o in root.iter("{*}Objective")}
    return number(objectives.get(settings.get("ID"))) if settings is not None else None


def _count(element: etree._Element, name: str) -> int:
    return _whole(element.get(name)) or 1


def _whole(text: str | None) -> int | None:
    """
    >>> _whole("3"), _whole(None), _whole("x"), _whole("-2")
    (3, None, None, None)
    """
    return int(text) if text and text.isdecimal() and len(text) < 10 else None
