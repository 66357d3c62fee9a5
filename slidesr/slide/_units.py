"""Units of length, as programs spell them in OME-XML and NGFF."""

from __future__ import annotations

import unicodedata

_PREFIXES = {
    "": 1e6, "deci": 1e5, "centi": 1e4, "milli": 1e3, "micro": 1.0, "nano": 1e-3, "pico": 1e-6,
}  # fmt: skip
_NAMES = {
    **{f"{prefix}{name}": um for prefix, um in _PREFIXES.items() for name in ("meter", "metre")},
    "micron": 1.0,
    "inch": 25_400.0,
    "angstrom": 1e-4,
    "ångström": 1e-4,
}
# NFKC makes the micro sign a Greek mu, and the angstrom sign a letter.
_SYMBOLS = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "\N{GREEK SMALL LETTER MU}m": 1.0, "um": 1.0,
    "\N{GREEK SMALL LETTER MU}": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25_400.0,
}  # fmt: skip


def um_from_unit(unit: str) -> float | None:
    """Micrometres in a unit, or None. Symbols keep their case: `Mm` is no `mm`.

    >>> [um_from_unit(unit) for unit in ("micrometer", "µm", "Microns", "mm", "Mm", "pixel")]
    [1.0, 1.0, 1.0, 1000.0, None, None]
    """
    text = unicodedata.normalize("NFKC", unit).strip()
    name = text.casefold().removesuffix("s") if len(text) > 2 else ""
    return _SYMBOLS.get(text, _NAMES.get(name))
