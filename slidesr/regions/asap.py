"""Reads the shapes of XML as ASAP writes it (XmlRepository.cpp there)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from slidesr.regions.shapes import Fault, Kind, Shape, UnusableError, shape_of
from slidesr.runtime.untrusted_xml import XMLError, xml_root

_AREAS = ("Polygon", "Spline", "Rectangle")  # of a spline ASAP's own masks use the corners too
_NO_GROUP = ("", "None")


def asap_shapes(data: bytes) -> list[Shape]:
    """The shapes of an ASAP file. Raises UnusableError where it is none."""
    return list(_shapes(_root(data)))


def _root(data: bytes) -> Any:
    try:
        root = xml_root(data)
    except XMLError as error:
        raise UnusableError(f"it is XML that is damaged at line {error.lineno}") from error
    except ValueError as error:
        raise UnusableError("it is XML that is damaged") from error
    if root.getroottree().docinfo.doctype:
        raise UnusableError("it has a document type, which could include other files")
    if root.tag != "ASAP_Annotations":
        raise UnusableError(f"it is XML of {root.tag}, not of ASAP_Annotations")
    return root


def _shapes(root: Any) -> Iterator[Shape]:
    groups = root.iterfind("AnnotationGroups/Group")
    above = {group.get("Name", ""): group.get("PartOfGroup", "") for group in groups}
    for annotation in root.iterfind("Annotations/Annotation"):
        kind = _kind(annotation.get("PartOfGroup", ""), above)
        if annotation.get("Type") in _AREAS:
            yield shape_of(kind, [[_corners(annotation)]])
        else:
            yield Shape(kind, fault=Fault.NO_AREA)


def _kind(group: str, above: Mapping[str, str]) -> Kind:
    """A group decides with all the groups above it; `above` is from a file and may be circular.

    >>> _kind("fold", {"fold": "artefact", "artefact": "None"}).deciding
    ('fold', 'artefact')
    """
    if group in _NO_GROUP:
        return Kind("", (group,))
    deciding = [group]
    while (parent := above.get(deciding[-1], "")) not in (*_NO_GROUP, *deciding):
        deciding.append(parent)
    return Kind(group, tuple(deciding))


def _corners(annotation: Any) -> list[list[str]]:
    """The x and y of each corner, by `Order`, or in the file's order where one lacks it."""
    corners = list(annotation.iter("Coordinate"))
    orders = [_order(corner) for corner in corners]
    if not any(map(math.isnan, orders)):
        corners = [corners[i] for i in sorted(range(len(corners)), key=orders.__getitem__)]
    return [[_number(corner, "X"), _number(corner, "Y")] for corner in corners]


def _order(corner: Any) -> float:
    try:
        return float(_number(corner, "Order"))
    except ValueError:
        return math.nan


def _number(corner: Any, name: str) -> str:
    """A number with a decimal point; ASAP writes a comma where the system's locale does."""
    return str(corner.get(name, "")).replace(",", ".")
