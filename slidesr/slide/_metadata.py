"""Pixel size, magnification and provenance, parsed from the text in a file."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

from slidesr.geometry import Mpp
from slidesr.runtime.untrusted_xml import XMLError, xml_root

_log = logging.getLogger(__name__)
_UM_PER_INCH = 25_400.0
_UM_PER_RESOLUTION_UNIT = {2: _UM_PER_INCH, 3: 10_000.0}  # TIFF tag 296: inch, centimetre
# What programs write by default, without a microscope.
_SCREEN_AND_PRINT_DPI = (72, 96, 150, 300, 600)
_SANE_UM = (0.01, 1000.0)
_NAMESPACE = "slidesr.provenance"
_PLAIN = re.compile(r"slidesr \d+x\d+(\||$)")


@dataclass(frozen=True)
class Resolution:
    """Pixel size and magnification of level 0; None where unknown."""

    mpp: Mpp | None = None
    magnification: float | None = None


def mpp_from_um(path: Path, x_um: float | None, y_um: float | None) -> Mpp | None:
    """The pixel size, or None with a warning where it is implausible for a microscope."""
    if x_um is None or y_um is None:
        return None
    if not all(_is_sane(side) for side in (x_um, y_um)):
        _log.warning("%s: a pixel size of %g x %g um is implausible and ignored", path, x_um, y_um)
        return None
    return Mpp(x_um, y_um)


def mpp_from_tiff_tags(path: Path, x: float, y: float, unit: int) -> Mpp | None:
    """The pixel size from XResolution, YResolution (pixels per unit) and ResolutionUnit."""
    if unit not in _UM_PER_RESOLUTION_UNIT or not (x > 0 and y > 0):
        return None
    um = _UM_PER_RESOLUTION_UNIT[unit]
    return mpp_from_um(path, um / x, um / y)


def provenance_from_description(text: str) -> dict[str, str]:
    """The key-value pairs of an image description that slidesr wrote; empty for others.

    >>> provenance_from_description("slidesr 80x60|MPP = 0.25 x 0.25|scale = 4")
    {'MPP': '0.25 x 0.25', 'scale': '4'}
    """
    if _NAMESPACE in text:
        return _from_ome(text)
    if not _PLAIN.match(text):
        return {}
    pairs = (pair.partition(" = ") for pair in text.split("|")[1:])
    return {key: value for key, equals, value in pairs if equals}


def number(text: str | None) -> float | None:
    """A positive finite number, or None for anything else.

    >>> number("0.25"), number("-1"), number("inf"), number("20x"), number(None)
    (0.25, None, None, None, None)
    """
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _is_sane(um: float) -> bool:
    guessed = any(
        math.isclose(um, _UM_PER_INCH / dpi, rel_tol=1e-3) for dpi in _SCREEN_AND_PRINT_DPI
    )
    return _SANE_UM[0] <= um <= _SANE_UM[1] and not guessed


def _from_ome(xml: str) -> dict[str, str]:
    try:
        root = xml_root(xml)
    except XMLError:
        return {}
    notes = (note for note in root.iter("{*}MapAnnotation") if note.get("Namespace") == _NAMESPACE)
    return {m.get("K", ""): m.text or "" for note in notes for m in note.iter("{*}M")}
