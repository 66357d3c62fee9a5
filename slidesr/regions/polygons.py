"""Joins outlines as people draw them, which may cross themselves and each other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from slidesr.regions.shapes import UnusableError

_MAX_CROSSINGS = 2000  # repair time is quadratic: one second for these


def united(geometries: Iterable[BaseGeometry]) -> MultiPolygon:
    """The union of all polygons in the geometries, repaired where they cross themselves.

    Raises UnusableError where that would take minutes, or cannot be done.
    """
    drawn = np.array(list(geometries), object)
    crossings = sum(map(_crossings, drawn[~shapely.is_valid(drawn)]))
    if crossings > _MAX_CROSSINGS:
        raise UnusableError(f"its outlines cross themselves some {crossings:.0f} times")
    try:
        valid = shapely.make_valid(drawn)
        parts = shapely.get_parts(shapely.get_parts(valid))  # of collections, then multipolygons
        union = shapely.union_all([part for part in parts if isinstance(part, Polygon)])
    except shapely.errors.ShapelyError as error:
        raise UnusableError("its outlines cannot be joined") from error
    return MultiPolygon([part for part in shapely.get_parts(union) if isinstance(part, Polygon)])


def without(areas: MultiPolygon, cuts: Iterable[BaseGeometry]) -> MultiPolygon:
    """The areas minus the cuts. Errors as of `united`."""
    try:
        return united([shapely.difference(areas, united(cuts))])
    except shapely.errors.ShapelyError as error:
        raise UnusableError("its outlines cannot be cut") from error


def _crossings(area: BaseGeometry) -> float:
    """How often the rings of an area cross, estimated from 200 of their sides."""
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(area)]
    sides = shapely.linestrings(np.concatenate([np.stack([r[:-1], r[1:]], 1) for r in rings]))
    sample = sides[:: max(1, len(sides) // 200)]
    pairs = shapely.STRtree(sides).query(sample, predicate="crosses")
    return float(pairs.shape[1] / len(sample) * len(sides) / 2)
