"""Checks of an OME-Zarr image: chunks decode, and its metadata follows NGFF 0.4 or 0.5."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from slidesr.errors import reason
from slidesr.geometry import Box, Size
from slidesr.verify.findings import Finding, Verdict
from slidesr.verify.readers.by_zarr import ZarrReader
from slidesr.verify.readers.reader import UnreadableError

_SAMPLED_CHUNKS = 64  # of each level
_AXES = ["c", "y", "x"]
_RGB = ["FF0000", "00FF00", "0000FF"]
_WITHOUT_SCALES = ("0.1", "0.2", "0.3")
_ROUNDED_PX = 1  # of a level's size, which is rounded


def schema_holds(store: ZarrReader) -> Finding:
    """Validates the metadata with ome-zarr-models, which implements the specification."""
    try:
        from ome_zarr_models import v04, v05
    except ImportError:
        how = "pip install ome-zarr-models"
        return Finding("schema", "ome-zarr-models", Verdict.NOT_INSTALLED, how)
    by = f"ome-zarr-models {version('ome-zarr-models')}"
    model: Any = {"0.4": v04.Image, "0.5": v05.Image}.get(store.version)
    if model is None:
        return Finding("schema", by, Verdict.ABSENT, f"knows 0.4 and 0.5, not {store.version}")
    try:
        model.from_zarr(store.group)
    except Exception as error:  # pydantic's, zarr's, and its own
        return Finding("schema", by, Verdict.FAILED, reason(error))
    return Finding("schema", by, Verdict.OK, f"valid NGFF {store.version}")


def scales_fit(store: ZarrReader) -> Finding:
    """Checks that each level's scale, relative to level 0, matches its size."""
    first, whole = store.scales[0], store.facts.levels[0]
    for level, (scale, size) in enumerate(zip(store.scales, store.facts.levels, strict=True)):
        if not scale and store.version in _WITHOUT_SCALES:
            detail = f"NGFF {store.version} has none"
            return Finding("scales", store.name, Verdict.ABSENT, detail)
        if not scale or min(scale["x"], scale["y"]) <= 0:
            return _failed("scales", store, f"level {level} has no scale, or one of zero")
        for axis, length, all_ in (
            ("x", size.width, whole.width),
            ("y", size.height, whole.height),
        ):
            factor = scale[axis] / first[axis]
            if not math.isclose(all_ / factor, length, abs_tol=_ROUNDED_PX):
                detail = (
                    f"level {level}: {length} px along {axis}; its scale implies {all_ / factor:g}"
                )
                return _failed("scales", store, detail)
    steps = ", ".join(f"{scale['x'] / first['x']:g}" for scale in store.scales)
    return Finding("scales", store.name, Verdict.OK, f"times {steps}")


def shows_as_rgb(store: ZarrReader) -> Finding:
    """Checks that viewers show one RGB image: the axes, and the channels that QuPath expects."""
    if store.axes != _AXES:
        return Finding("colour", store.name, Verdict.ABSENT, f"axes are {','.join(store.axes)}")
    channels = (store.metadata.get("omero") or {}).get("channels") or ()
    colours = [str(channel.get("color", "")).upper() for channel in channels]
    if colours != _RGB:
        detail = "its omero channels are not red, green, blue, so QuPath shows three channels"
        return Finding("colour", store.name, Verdict.ABSENT, detail)
    return Finding("colour", store.name, Verdict.OK, "red, green, blue channels")


def chunks_decode(store: ZarrReader, *, full: bool) -> Finding:
    """Decodes every chunk, or an evenly spaced sample; zarr checks the CRCs of shards."""
    count = 0
    for level, box in _chosen(store, full=full):
        try:
            store.decode(level, box)
        except UnreadableError as error:
            return _failed("tiles", store, f"level {level}, x {box.x}, y {box.y}: {error}")
        count += 1
    kind = "all" if full else "a sample of"
    return Finding("tiles", store.name, Verdict.OK, f"{kind} {count} chunks decode")


def _chosen(store: ZarrReader, *, full: bool) -> Iterator[tuple[int, Box]]:
    x, y = (store.axes.index(axis) for axis in "xy")
    for level, array in enumerate(store.arrays):
        size = store.facts.levels[level]
        boxes = list(_chunks(size, array.chunks[x], array.chunks[y]))
        if not full and len(boxes) > _SAMPLED_CHUNKS:
            step = (len(boxes) - 1) / (_SAMPLED_CHUNKS - 1)
            boxes = [boxes[round(each * step)] for each in range(_SAMPLED_CHUNKS)]
        for box in boxes:
            yield level, box


def _chunks(size: Size, width: int, height: int) -> Iterator[Box]:
    for y in range(0, size.height, height):
        for x in range(0, size.width, width):
            yield Box(x, y, width, height).clipped(size.box)


def _failed(check: str, store: ZarrReader, detail: str) -> Finding:
    return Finding(check, store.name, Verdict.FAILED, detail)
