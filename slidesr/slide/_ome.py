"""The images that OME-XML describes: names, planes, channels, pixel sizes and magnifications."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from slidesr.errors import printable
from slidesr.runtime.untrusted_xml import XMLError, xml_root
from slidesr.slide._metadata import Resolution, mpp_from_um, number
from slidesr.slide._units import um_from_unit

_log = logging.getLogger(__name__)
MAX_DIRECTORIES = 4096  # more are in no slide
_PRIMARIES = {0xFF0000: "R", 0x00FF00: "G", 0x0000FF: "B"}
_NAMES = {"red": "R", "green": "G", "blue": "B", "r": "R", "g": "G", "b": "B"}


@dataclass(frozen=True)
class OmeImage:
    """An image of an OME-TIFF.

    `primaries` names its channels R, G and B in their order, where names or colours say so.
    `is_elsewhere`: a part of the image lies in another file.
    """

    name: str
    size_c: int
    size_z: int
    size_t: int
    primaries: str
    is_elsewhere: bool
    resolution: Resolution
    _ranges: tuple[tuple[int | None, int | None], ...]  # first directory and count, as stated

    def planes(self, samples: int) -> int:
        """The number of its planes, where a directory has `samples` a pixel."""
        return max(1, self.size_c // samples) * self.size_z * self.size_t

    def directories(self, samples: int) -> tuple[int, ...]:
        """The positions of its planes in the main chain, fewer than `planes` if some are missing.

        Without TiffData, or without IFD in it, they are numbered from 0.
        """
        planes = min(self.planes(samples), MAX_DIRECTORIES)
        found: list[int] = []
        for first, count in self._ranges or ((None, None),):
            start = len(found) if first is None else first
            length = count or (planes if first is None else 1)
            found += range(start, start + min(length, planes - len(found)))
        return tuple(found)


def parse_ome(path: Path, xml: str) -> tuple[OmeImage, ...]:
    """The images in the order of the XML; none, with a warning, where it is invalid.

    https://www.openmicroscopy.org/Schemas/Documentation/Generated/OME-2016-06/ome.html
    """
    try:
        root = xml_root(xml.encode())
    except XMLError as error:
        _log.warning("%s: its OME-XML is invalid: %s", path, printable(str(error)))
        return ()
    return tuple(_images(path, root))


def _images(path: Path, root: etree._Element) -> Iterator[OmeImage]:
    for image in root.findall("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        x_um, y_um = (_um(pixels.attrib, f"PhysicalSize{axis}") for axis in "XY")
        mpp = mpp_from_um(path, x_um, y_um)
        yield OmeImage(
            name=image.get("Name", ""),
            size_c=_count(pixels, "SizeC"),
            size_z=_count(pixels, "SizeZ"),
            size_t=_count(pixels, "SizeT"),
            primaries=_primaries(pixels),
            is_elsewhere=_is_elsewhere(root, pixels),
            resolution=Resolution(mpp, _magnification(root, image)),
            _ranges=tuple(
                (_whole(data.get("IFD")), _whole(data.get("PlaneCount")))
                for data in pixels.findall("{*}TiffData")
            ),
        )


def _primaries(pixels: etree._Element) -> str:
    """R, G and B in the order of the channels; empty unless all three are there, once each."""
    channels = list(pixels.iter("{*}Channel"))
    for name_of in (_primary_by_name, _primary_by_colour):
        found = [name_of(channel) for channel in channels]
        if sorted(found) == ["B", "G", "R"]:
            return "".join(found)
    return ""


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


def _um(attributes: Mapping[str, str], name: str) -> float | None:
    size = number(attributes.get(name))
    factor = um_from_unit(attributes.get(f"{name}Unit", "µm"))
    return None if size is None or factor is None else size * factor


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
