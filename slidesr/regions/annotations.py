"""Reads annotations, QuPath's GeoJSON and ASAP's XML, as polygons in level-0 pixels (x, y)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from lxml import etree
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from slidesr.errors import RefusedError
from slidesr.geometry import Size
from slidesr.runtime.paths import check_file

_log = logging.getLogger(__name__)

_MAX_BYTES = 256 * 2**20  # a million QuPath cells; parsing takes about ten times the memory
_MAX_CROSSINGS = 2000  # repair time is quadratic: one second for these
_EXCLUDED = re.compile(r"^_2$|exclu", re.IGNORECASE)  # `_2` is Camelyon16's "no tumour"
_NO_LESION = re.compile(  # `normal` is Camelyon17's, `Ignore*` is QuPath's
    rf"{_EXCLUDED.pattern}|^normal|^benign|^ignore|^non[-_ ]", re.IGNORECASE
)
_ASAP_AREAS = ("Polygon", "Spline", "Rectangle")
_CURE = "Give GeoJSON as QuPath exports it, or XML as ASAP saves it."


def read_roi(path: Path) -> MultiPolygon:
    """Reads the areas of a GeoJSON or ASAP file, minus holes and exclusions.

    Level-0 pixels (x, y). Points and lines have no area and are skipped with a warning. Raises
    RefusedError where the file cannot be read or holds no area.
    """
    return _read(path, _EXCLUDED, ())


def read_lesions(path: Path, kinds: Collection[str] = ()) -> MultiPolygon:
    """Reads the lesions of a GeoJSON or ASAP file, in level-0 pixels (x, y).

    A kind is a group in ASAP or a class in QuPath. Lesions are the areas of `kinds` (default: any),
    minus the areas whose kind names them as something else. Errors as of `read_roi`.
    """
    return _read(path, _NO_LESION, kinds)


def roi_mask(roi: BaseGeometry, slide: Size, mask: Size) -> NDArray[np.bool_]:
    """A mask bool[h, w] of the slide that covers the ROI and at most 2 mask pixels around it."""
    scale = np.array([mask.width / slide.width, mask.height / slide.height])
    visible = shapely.intersection(roi, shapely.box(0, 0, slide.width, slide.height))
    areas = _areas([shapely.transform(visible, lambda xy: xy * scale)])
    canvas = Image.new("1", (mask.width, mask.height))
    draw = ImageDraw.Draw(canvas)
    for area in sorted(areas.geoms, key=lambda a: Polygon(a.exterior).area, reverse=True):
        _fill(draw, area)  # the largest first, as an area may lie in the hole of another
    return np.asarray(np.array(canvas) | _outline(areas, mask))


def _fill(draw: ImageDraw.ImageDraw, area: Polygon) -> None:
    """Fills an area; off by up to a pixel, which `_outline` compensates."""
    draw.polygon(list(map(tuple, area.exterior.coords)), fill=1)
    for hole in area.interiors:
        draw.polygon(list(map(tuple, hole.coords)), fill=0)


def _outline(areas: MultiPolygon, mask: Size) -> NDArray[np.bool_]:
    """Every pixel on a ring, and its neighbours."""
    x, y = shapely.get_coordinates(shapely.segmentize(areas.boundary, 0.5)).astype(int).T
    touched = np.zeros((mask.height, mask.width), np.bool_)
    touched[y.clip(0, mask.height - 1), x.clip(0, mask.width - 1)] = True
    return np.asarray(ndimage.maximum_filter(touched, 3))


# ---- files ---------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    check_file(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RefusedError(
                f"{path}: larger than {_MAX_BYTES >> 20} MiB. Export only the regions to upscale."
            )
        data = path.read_bytes()
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}. {_CURE}") from error
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()


def _read(path: Path, cut: re.Pattern[str], kinds: Collection[str]) -> MultiPolygon:
    """The areas of `kinds` (default: any), minus those whose kind matches `cut`."""
    data = _bytes(path)
    try:
        shapes = list(_asap(data) if data.startswith(b"<") else _geojson(json.loads(data)))
        drawn = [(kind, area) for kind, area in shapes if area is not None]
        areas = _areas(
            area for kind, area in drawn if not cut.search(kind) and (not kinds or kind in kinds)
        )
        cuts = [area for kind, area in drawn if cut.search(kind)]
        areas = _areas([shapely.difference(areas, _areas(cuts))]) if cuts else areas
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RefusedError(f"{path}: not a region file ({error}). {_CURE}") from error
    except (etree.XMLSyntaxError, shapely.errors.ShapelyError) as error:
        raise RefusedError(f"{path}: not a region file ({error}). {_CURE}") from error
    if left_out := len(shapes) - len(drawn):
        _log.warning("%s: shapes without an area are skipped: %d", path, left_out)
    if areas.is_empty:
        of = f" of kind {', '.join(kinds)}" if kinds else ""
        raise RefusedError(f"{path}: holds no area{of}. Draw a polygon, a rectangle or an ellipse.")
    return areas


def _geojson(node: Any, kind: str = "") -> Iterator[tuple[str, Polygon | None]]:
    """Kind and area of each shape in a collection, a list, a feature or a geometry."""
    if isinstance(node, list):
        for child in node:
            yield from _geojson(child, kind)
        return
    match node["type"]:
        case "FeatureCollection":
            yield from _geojson(node["features"])
        case "Feature":
            yield from _geojson(node["geometry"] or [], _class_of(node))
        case "GeometryCollection":
            yield from _geojson(node["geometries"], kind)
        case "MultiPolygon":
            yield from ((kind, _polygon(rings)) for rings in node["coordinates"])
        case "Polygon":
            yield kind, _polygon(node["coordinates"])
        case "Point" | "MultiPoint" | "LineString" | "MultiLineString":
            yield kind, None
        case other:
            raise ValueError(f"{other!r} is not a GeoJSON type")


def _class_of(feature: dict[str, Any]) -> str:
    """The QuPath class of an object; empty if it has none."""
    match feature.get("properties"):
        case {"classification": {"name": str(name)}}:
            return name
    return ""


def _asap(data: bytes) -> Iterator[tuple[str, Polygon | None]]:
    """Group and area of each annotation."""
    for annotation in _asap_root(data).iterfind("Annotations/Annotation"):
        if annotation.get("Type") not in _ASAP_AREAS:
            yield "", None
            continue
        corners = sorted(annotation.iter("Coordinate"), key=lambda c: float(c.get("Order")))
        ring = [(float(c.get("X")), float(c.get("Y"))) for c in corners]
        yield annotation.get("PartOfGroup", ""), _polygon([ring])


def _asap_root(data: bytes) -> Any:
    """The root of untrusted XML, parsed without entities, network access or huge trees."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    root = etree.fromstring(data, parser)
    if root.getroottree().docinfo.doctype:
        raise ValueError("it has a document type, which could include other files")
    if root.tag != "ASAP_Annotations":
        raise ValueError(f"its root is {root.tag}, not ASAP_Annotations")
    return root


# ---- polygons ------------------------------------------------------------------------------------


def _polygon(rings: list[Any]) -> Polygon:
    """The polygon of an outer ring and its holes; a point is x, y and perhaps more."""
    shell, *holes = [np.asarray([point[:2] for point in ring], np.float64) for ring in rings]
    if not all(np.isfinite(ring).all() for ring in (shell, *holes)):
        raise ValueError("a coordinate is not finite")
    return Polygon(shell, holes)


def _areas(geometries: Iterable[BaseGeometry]) -> MultiPolygon:
    """The union of all polygons in the geometries, repaired where they cross themselves."""
    drawn = np.array(list(geometries), object)
    crossings = sum(map(_crossings, drawn[~shapely.is_valid(drawn)]))
    if crossings > _MAX_CROSSINGS:
        raise ValueError(f"its outlines cross themselves some {crossings:.0f} times")
    valid = shapely.make_valid(drawn)
    parts = shapely.get_parts(shapely.get_parts(valid))  # of collections, then of multipolygons
    union = shapely.union_all([part for part in parts if isinstance(part, Polygon)])
    return MultiPolygon([part for part in shapely.get_parts(union) if isinstance(part, Polygon)])


def _crossings(area: BaseGeometry) -> float:
    """How often the rings of an area cross, estimated from 200 of their sides."""
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(area)]
    sides = shapely.linestrings(np.concatenate([np.stack([r[:-1], r[1:]], 1) for r in rings]))
    sample = sides[:: max(1, len(sides) // 200)]
    pairs = shapely.STRtree(sides).query(sample, predicate="crosses")
    return float(pairs.shape[1] / len(sample) * len(sides) / 2)
