"""Regions and lesions from annotation files, as polygons in level-0 pixels (x, y).

docs/formats.md has a table of what each class means.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from slidesr.errors import RefusedError
from slidesr.geometry import Size
from slidesr.regions.annotation_files import read_shapes
from slidesr.regions.polygons import united, without
from slidesr.regions.shapes import Fault, Kind, Shape, UnusableError

_log = logging.getLogger(__name__)

_EXCLUDED = re.compile(r"^_2$|exclu", re.IGNORECASE)  # `_2` is Camelyon16's "no tumour"
_NO_LESION = re.compile(  # `normal` is Camelyon17's, `Ignore*` is QuPath's
    rf"{_EXCLUDED.pattern}|^normal|^benign|^ignore|^non[-_ ]", re.IGNORECASE
)
_CAMELYON_TUMOUR = re.compile(r"^_[01]$")  # Camelyon16's tumours
_DOUBTFUL = re.compile(  # the classes that QuPath offers besides Tumor and Ignore*
    r"^(stroma|immune cells|necrosis|other|region|positive|negative)\b", re.IGNORECASE
)
_USED, _CUT, _NOT_NAMED, _DETECTED = "", "cut out", "not used", "detected, not used"
_MOST_NAMES, _MOST_LETTERS = 20, 80  # shown to the user
_DRAW = "Draw a polygon, a rectangle or an ellipse."
_Use = Callable[[Kind], str]


def read_roi(path: Path, slide: Size | None = None) -> MultiPolygon:
    """Reads the areas of a GeoJSON or ASAP file, minus holes and exclusions.

    Level-0 pixels (x, y). The classes found are logged; points, lines and damaged shapes are left
    out with a warning. Raises RefusedError where the file cannot be read or holds no area, or
    none in a slide of the size `slide`.
    """

    def use(kind: Kind) -> str:
        return _CUT if kind.matches(_EXCLUDED) else _USED

    return _joined(path, read_shapes(path), use, slide)


def read_lesions(
    path: Path, kinds: Collection[str] = (), slide: Size | None = None
) -> MultiPolygon:
    """Reads the lesions of a GeoJSON or ASAP file, in level-0 pixels (x, y).

    A kind is a class in QuPath or a group in ASAP. Lesions are the areas of `kinds` (default: any
    that are drawn, not detected), minus the areas whose kind names them as something else. A kind
    in `kinds` is always a lesion. Log and errors as of `read_roi`.
    """

    def use(kind: Kind) -> str:
        if kind.matches(_NO_LESION, but=kinds):
            return _CUT
        if kinds:
            return _USED if kind.is_called(kinds) else _NOT_NAMED
        return _USED if kind.is_annotation else _DETECTED

    shapes = read_shapes(path)
    lesions = _joined(path, shapes, use, slide, kinds)
    if not kinds:
        _warn_of_doubt(
            path, [shape.kind for shape in shapes if shape.areas and not use(shape.kind)]
        )
    return lesions


def roi_mask(roi: BaseGeometry, slide: Size, mask: Size) -> NDArray[np.bool_]:
    """A mask bool[h, w] of the slide that covers the ROI and at most 2 mask pixels around it."""
    scale = np.array([mask.width / slide.width, mask.height / slide.height])
    visible = shapely.intersection(roi, shapely.box(0, 0, slide.width, slide.height))
    areas = united([shapely.transform(visible, lambda xy: xy * scale)])
    canvas = Image.new("1", (mask.width, mask.height))
    draw = ImageDraw.Draw(canvas)
    for area in sorted(areas.geoms, key=lambda a: Polygon(a.exterior).area, reverse=True):
        _fill(draw, area)  # the largest first, as an area may lie in the hole of another
    return np.asarray(np.array(canvas) | _outline(areas, mask))


# ---- choice --------------------------------------------------------------------------------------


def _joined(
    path: Path,
    shapes: Sequence[Shape],
    use: _Use,
    slide: Size | None,
    kinds: Collection[str] = (),
) -> MultiPolygon:
    """The areas that are used, minus those that are cut out; `kinds` are those asked for.

    What was found is logged once nothing is left to refuse.
    """
    parts = [(use(shape.kind), area) for shape in shapes for area in shape.areas]
    used, cut = ([area for how, area in parts if how == which] for which in (_USED, _CUT))
    try:
        areas = without(united(used), cut) if used and cut else united(used)
    except UnusableError as error:
        raise RefusedError(f"{path}: {error}. Draw them anew.") from error
    found, faults = _found(shapes, use), _faults(shapes)
    if not areas.area:
        why = _why_empty(found, faults, kinds, is_used=bool(used))
        raise RefusedError(f"{path}: {why}")
    if slide is not None and not _overlaps(areas, slide):
        raise RefusedError(
            f"{path}: lies wholly outside the slide; its unit must be level-0 pixels"
        )
    _log.info("%s: %s", path.name, found)
    for fault in faults:
        _log.warning("%s: %s", path, fault)
    return areas


def _overlaps(areas: MultiPolygon, slide: Size) -> bool:
    inside = shapely.box(0, 0, slide.width, slide.height)
    return bool(areas.intersects(inside) and not areas.touches(inside))


def _why_empty(found: str, faults: list[str], kinds: Collection[str], *, is_used: bool) -> str:
    if not found:
        return f"{'; '.join(['holds no area', *faults])}. {_DRAW}"
    has = "; ".join([f"it has {found}", *faults])
    if is_used:
        return f"its areas are flat or wholly cut out; {has}. {_DRAW}"
    if kinds:
        return f"holds no area of kind {', '.join(kinds)}; {has}. Give --lesion one of these."
    named = " Or name the class that is lesion with --lesion." if _DETECTED in found else ""
    return f"holds no area to use; {has}. {_DRAW}{named}"


def _warn_of_doubt(path: Path, lesions: Iterable[Kind]) -> None:
    """Warns where classes that nobody named as lesions may be something else."""
    names = dict.fromkeys(kind.deciding[0] for kind in lesions if kind.name)
    said = [name for name in names if not _CAMELYON_TUMOUR.search(name)]
    if len(said) > 1 or any(map(_DOUBTFUL.search, said)):
        _log.warning(
            "%s: taken as lesion: %s. Name what is lesion with --lesion.",
            *(path, _enumerated(said)),
        )


def _found(shapes: Iterable[Shape], use: _Use) -> str:
    """The kinds of the areas, the most frequent first: `Tumor 12, Exclusion 1 (cut out)`."""
    counts = Counter((_label(shape.kind), use(shape.kind)) for shape in shapes if shape.areas)
    return _enumerated(
        f"{label} {count}{f' ({how})' if how else ''}"
        for (label, how), count in counts.most_common()
    )


def _faults(shapes: Iterable[Shape]) -> list[str]:
    """What is left out and why: `shapes without an area are skipped: 1 (no class 1)`."""
    kinds: dict[Fault, Counter[str]] = {fault: Counter() for fault in Fault}
    for shape in shapes:
        if shape.fault:
            kinds[shape.fault][_label(shape.kind)] += 1
    return [
        f"{fault}: {counts.total()} ({_enumerated(f'{k} {n}' for k, n in counts.most_common())})"
        for fault, counts in kinds.items()
        if counts
    ]


def _label(kind: Kind) -> str:
    if len(kind.name) > _MOST_LETTERS:
        return f"{kind.name[:_MOST_LETTERS]}..."
    return kind.name or "no class"


def _enumerated(texts: Iterable[str]) -> str:
    """
    >>> _enumerated(["a", "b"])
    'a, b'
    """
    every = list(texts)
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
    return ", ".join(every[:_MOST_NAMES]) + more


# ---- mask ----------------------------------------------------------------------------------------


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
