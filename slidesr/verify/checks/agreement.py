"""Checks that the readers agree on levels, pixel size, magnification and pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.findings import Finding, Verdict
from slidesr.verify.readers.reader import Reader, UnreadableError

_TOLERANCE = 1e-3  # relative, between 32-bit rationals and decimals
_BOX_PX = 64
_TILE_PX = 256  # boxes in the middle straddle a border of tiles of any usual size


def levels_agree(readers: Sequence[Reader], *, promised: bool) -> list[Finding]:
    """Compares the level sizes. If `promised`, each reader must find all of them."""
    most = max((reader.facts.levels for reader in readers), key=len)
    findings = []
    for reader in readers:
        seen = reader.facts.levels
        if seen == most:
            first = reader is readers[0]
            found = Verdict.OK, f"{len(seen)}{f': {_list(seen)}' if first else ''}"
        elif seen == most[: len(seen)]:
            outcome = Verdict.FAILED if promised else Verdict.ABSENT
            found = outcome, f"{len(seen)} of {len(most)} levels"
        else:
            found = Verdict.FAILED, f"{_list(seen)}, where others see {_list(most)}"
        findings.append(Finding("levels", reader.name, *found))
    return findings


def pixel_sizes_agree(known: Mapping[str, Mpp | None]) -> list[Finding]:
    """Compares the pixel sizes, by reader."""
    first = next((mpp for mpp in known.values() if mpp), None)
    return [
        Finding(
            "pixel size",
            by,
            _outcome(_sides(mpp), _sides(first)),
            f"{mpp.x:.6g} x {mpp.y:.6g} um" if mpp else "",
        )
        for by, mpp in known.items()
    ]


def magnifications_agree(known: Mapping[str, float | None]) -> list[Finding]:
    """Compares the magnifications, by reader."""
    first = next((power for power in known.values() if power), None)
    return [
        Finding(
            "magnification",
            by,
            _outcome((power,) if power else None, (first,) if first else None),
            f"{power:g}x" if power else "",
        )
        for by, power in known.items()
    ]


def pixels_agree(readers: Sequence[Reader], *, tolerance: int, is_ours: bool) -> list[Finding]:
    """Compares nine boxes of each level, including corners and borders, with the first reader's.

    Where a reader can only interpolate, its pixels must lie between their neighbours.
    """
    reference, *others = readers
    findings = [_reference_reads(reference, is_ours=is_ours)]
    for reader in others:
        findings.append(_compared(reference, reader, tolerance, is_ours=is_ours))
    return findings


def sample_boxes(size: Size) -> list[Box]:
    """Three by three boxes of 64 px: first, middle and last in each direction.

    >>> [(box.x, box.y) for box in sample_boxes(Size(1051, 779))][::4]
    [(0, 0), (480, 224), (987, 715)]
    """
    width, height = min(_BOX_PX, size.width), min(_BOX_PX, size.height)
    xs, ys = _starts(size.width, width), _starts(size.height, height)
    return [Box(x, y, width, height) for y in ys for x in xs]


def _starts(length: int, side: int) -> list[int]:
    border = length // 2 // _TILE_PX * _TILE_PX or length // 2
    middle = min(max(0, border - side // 2), length - side)
    return sorted({0, middle, length - side})


def _sides(mpp: Mpp | None) -> tuple[float, float] | None:
    return (mpp.x, mpp.y) if mpp else None


def _outcome(value: Sequence[float] | None, first: Sequence[float] | None) -> Verdict:
    if not value or not first:
        return Verdict.ABSENT
    same = all(math.isclose(a, b, rel_tol=_TOLERANCE) for a, b in zip(value, first, strict=True))
    return Verdict.OK if same else Verdict.FAILED


def _reference_reads(reference: Reader, *, is_ours: bool) -> Finding:
    """Whether the first reader itself decodes every box."""
    count = 0
    try:
        for level, size in enumerate(reference.facts.levels):
            for box in sample_boxes(size):
                reference.read(level, box)
                count += 1
    except UnreadableError as error:
        return _unreadable(reference, error, is_ours=is_ours)
    return Finding("pixels", reference.name, Verdict.OK, f"shows {count} places")


def _compared(reference: Reader, reader: Reader, tolerance: int, *, is_ours: bool) -> Finding:
    worst, count = 0, 0
    shared = zip(reference.facts.levels, reader.facts.levels, strict=False)
    for level, (size, same) in enumerate(shared):
        for box in sample_boxes(size) if size == same else ():
            try:
                difference = _difference(reference, reader, level, box)
            except UnreadableError as error:
                return _unreadable(reader, error, is_ours=is_ours)
            if difference > tolerance:
                where = f"level {level}, x {box.x}, y {box.y}"
                detail = f"{difference} grey levels off {reference.name} at {where}"
                return Finding("pixels", reader.name, Verdict.FAILED, detail)
            worst, count = max(worst, difference), count + 1
    how = f"at most {worst} grey levels off" if worst else "the same as"
    return Finding("pixels", reader.name, Verdict.OK, f"{how} {reference.name}, {count} places")


def _difference(reference: Reader, reader: Reader, level: int, box: Box) -> int:
    """The largest difference of any sample in a box."""
    seen = reader.read(level, box).astype(np.int16)
    if not reader.interpolates(level):
        return int(np.abs(seen - reference.read(level, box)).max())
    around = box.grown(1).clipped(reference.facts.levels[level].box)
    wanted = reference.read(level, around)
    least, most = (
        _neighbours(wanted, rank, box.within(around)) for rank in (minimum_filter, maximum_filter)
    )
    return int(max((least - seen).max(), (seen - most).max(), 0))


def _neighbours(pixels: Pixels, rank: Any, inside: Box) -> NDArray[np.int16]:
    filtered: Pixels = rank(pixels, size=(3, 3, 1))
    return filtered[inside.slices].astype(np.int16)


def _unreadable(reader: Reader, error: UnreadableError, *, is_ours: bool) -> Finding:
    outcome = Verdict.FAILED if is_ours else Verdict.ABSENT
    return Finding("pixels", reader.name, outcome, f"does not decode it: {error}")


def _list(sizes: Sequence[Size]) -> str:
    return ", ".join(map(str, sizes))
