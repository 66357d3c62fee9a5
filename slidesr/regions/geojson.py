"""Reads the shapes of GeoJSON as QuPath 0.2 to 0.6 and other programs write it.

It follows QuPath's own source in qupath-core: PathClassTypeAdapter (classes), PathObjectTypeAdapter
(objects and their children), ROITypeAdapter (geometries and planes).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from slidesr.regions.shapes import Fault, Kind, Shape, UnusableError, shape_of

_KEYS = {"features", "geometry", "geometries", "coordinates", "root"}
_ROOTS = ("root", "PathRootObject")  # the second of each pair is QuPath 0.2's
_DETECTED = (
    *("detection", "PathDetectionObject", "cell", "PathCellObject", "tile", "PathTileObject"),
    *("tmaCore", "TMACoreObject", "tma_core"),
)
_UNCLASSIFIED = Kind()


def geojson_shapes(data: bytes) -> list[Shape]:
    """The shapes of a collection, a list, a feature, a geometry or a hierarchy of objects.

    Raises UnusableError where it is none of them.
    """
    try:
        root = json.loads(data, parse_int=float)  # Python refuses integers of many digits
        if not (isinstance(root, list) or (isinstance(root, dict) and _KEYS & root.keys())):
            raise UnusableError("it is JSON, but not GeoJSON")
        return list(_shapes(root, _UNCLASSIFIED))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UnusableError(f"it is not JSON, or damaged at {where}") from error
    except UnicodeDecodeError as error:
        raise UnusableError("it is neither GeoJSON nor XML") from error
    except RecursionError as error:
        raise UnusableError("it is nested too deeply") from error


def _shapes(node: Any, kind: Kind) -> Iterator[Shape]:
    match node:
        case list(nodes) | {"features": list(nodes)} | {"geometries": list(nodes)}:
            for child in nodes:
                yield from _shapes(child, kind)
        case {"root": dict(root)}:
            yield from _shapes(root, kind)
        case {"geometry": _} | {"type": "Feature"}:
            yield from _feature(node)
        case {"plane": dict(plane)} if plane.get("z") or plane.get("t"):
            yield Shape(kind, fault=Fault.OTHER_PLANE)
        case {"type": "Polygon", "coordinates": rings}:
            yield shape_of(kind, [rings])
        case {"type": "MultiPolygon", "coordinates": list(polygons)}:
            yield shape_of(kind, polygons)
        case {"type": "Point" | "MultiPoint" | "LineString" | "MultiLineString"}:
            yield Shape(kind, fault=Fault.NO_AREA)
        case _:
            yield Shape(kind, fault=Fault.UNREADABLE)


def _feature(feature: dict[str, Any]) -> Iterator[Shape]:
    """The shapes of an object and of those below it; a missing core has none of its own."""
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    kind_of_object = _object_type(feature, properties)
    names = _names(properties.get("classification"))
    kind = Kind(": ".join(names), tuple(names[:1]), kind_of_object not in _DETECTED)
    if kind_of_object not in _ROOTS and properties.get("isMissing") is not True:
        yield from _shapes(feature.get("geometry"), kind)
    for key in ("childObjects", "children"):
        if isinstance(properties.get(key), list):
            yield from _shapes(properties[key], _UNCLASSIFIED)


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> Any:
    """What an object is to QuPath, such as `annotation`; 0.2 says it in the id."""
    said = [properties.get(key) for key in ("objectType", "object_type", "type")]
    return next((each for each in said if each is not None), feature.get("id"))


def _names(classification: Any) -> list[str]:
    """The names of a class, the most general first; none if it has none.

    >>> _names({"name": "Tumor: Positive"})
    ['Tumor', 'Positive']
    >>> _names({"parentClass": {"name": "Tumor"}, "name": "Positive", "colorRGB": -3})
    ['Tumor', 'Positive']
    """
    match classification:
        case str(text) if text.startswith("{"):  # as GDAL and GeoPandas write an object
            return _names_in(text)
        case str(text):
            return [name.strip() for name in text.split(":") if name.strip()]
        case {"name": str(name), "parentClass": dict(parent)}:
            return [*_names(parent), *_names(name)]
        case {"name": str(name)}:
            return _names(name)
        case {"names": list(names)}:
            return [name.strip() for name in names if isinstance(name, str) and name.strip()]
    return []


def _names_in(text: str) -> list[str]:
    try:
        return _names(json.loads(text))
    except ValueError:
        return [text]
