"""What an annotation file holds: shapes and their kinds, in level-0 pixels (x, y)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

_MAX_PX = 1e9  # no slide is as wide


class UnusableError(Exception):
    """The file cannot be used; the message is a clause that says why, without the path."""


class Fault(StrEnum):
    """Why a shape is not used, as the user reads it."""

    NO_AREA = "shapes without an area are skipped"
    UNREADABLE = "shapes that cannot be read are left out"
    OTHER_PLANE = "shapes on other planes than z 0 and t 0 are left out"


@dataclass(frozen=True)
class Kind:
    """The class of a shape in QuPath, or its group in ASAP."""

    name: str = ""  # as the program shows it; empty if it has none
    deciding: tuple[str, ...] = ()  # what it is: QuPath's first name; ASAP's group and those above
    is_annotation: bool = True  # not a detection, a cell, a tile or the core of a microarray

    def is_called(self, names: Collection[str]) -> bool:
        return any(name in names for name in (self.name, *self.deciding))

    def matches(self, pattern: re.Pattern[str], but: Collection[str] = ()) -> bool:
        """Whether a deciding name, except those in `but`, matches the pattern."""
        return any(pattern.search(name) for name in self.deciding if name not in but)


@dataclass(frozen=True)
class Shape:
    """The areas of one annotation, or the reason why it has none."""

    kind: Kind
    areas: tuple[Polygon, ...] = ()
    fault: Fault | None = None


def shape_of(kind: Kind, polygons: Iterable[Any]) -> Shape:
    """A shape of polygons from a file, each an outer ring and its holes.

    A point is x, y and perhaps more. The shape is unreadable where a ring has fewer than three
    corners, or a corner is not a pair of numbers below a billion.
    """
    try:
        areas = tuple(_polygon(rings) for rings in polygons)
    except (ValueError, TypeError, LookupError):
        areas = ()
    return Shape(kind, areas) if areas else Shape(kind, fault=Fault.UNREADABLE)


def _polygon(rings: Iterable[Any]) -> Polygon:
    shell, *holes = [_ring(points) for points in rings]
    return Polygon(shell, holes)


def _ring(points: Iterable[Any]) -> NDArray[np.float64]:
    """The corners f64[n, 2] of a ring."""
    ring = np.array([point[:2] for point in points], np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or not (np.abs(ring) < _MAX_PX).all():
        raise ValueError("a corner is not a pair of numbers below a billion")
    if len(ring) - (ring[0] == ring[-1]).all() < 3:
        raise ValueError("a ring has fewer than three corners")
    return ring
