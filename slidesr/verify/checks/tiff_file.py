"""Checks of a TIFF: tiles decode, OME-XML is valid."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from lxml.etree import XMLSyntaxError
from ome_types import OME, from_xml, validate_xml
from ome_types.model import Image

from slidesr.errors import reason
from slidesr.geometry import Mpp, Size
from slidesr.verify.findings import Finding, Verdict
from slidesr.verify.readers.by_tifffile import TifffileReader
from slidesr.verify.readers.reader import Facts, UnreadableError

_SAMPLED_TILES = 64  # of each level
_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "nm": 1e-3}
_BY_XML = f"ome-types {version('ome-types')}"
_BY_CODECS = f"imagecodecs {version('imagecodecs')}"


def tiles_decode(tiff: TifffileReader, *, full: bool, is_ours: bool) -> Finding:
    """Decodes every tile, or an evenly spaced sample of each level."""
    count, sparse, seen = 0, 0, set[tuple[int, int]]()
    for level, index, offset, length in _chosen(tiff, full=full):
        if not length:
            sparse += 1
        elif (offset, length) not in seen:  # tiles of glass share one offset
            seen.add((offset, length))
            try:
                tiff.decode(level, index, offset, length)
            except UnreadableError as error:
                detail = f"level {level}, tile {index}: {error}"
                return Finding("tiles", _BY_CODECS, Verdict.FAILED, detail)
        count += 1
    if sparse:
        outcome = Verdict.FAILED if is_ours else Verdict.ABSENT
        return Finding("tiles", _BY_CODECS, outcome, f"{sparse} are sparse: black in most readers")
    kind = "all" if full else "a sample of"
    detail = f"{kind} {count} tiles decode, {len(seen)} of them different"
    return Finding("tiles", _BY_CODECS, Verdict.OK, detail)


def schema_holds(tiff: TifffileReader) -> tuple[Finding, Facts | None]:
    """Validates the OME-XML offline, and returns the facts in it."""
    if not tiff.is_ome:
        return Finding("schema", _BY_XML, Verdict.ABSENT, "no OME-XML"), None
    try:
        validate_xml(tiff.description)
        ome = from_xml(tiff.description)
    except (XMLSyntaxError, ValueError) as error:
        return Finding("schema", _BY_XML, Verdict.FAILED, reason(error)), None
    size = tiff.facts.levels[0]
    stated = {Size(each.pixels.size_x, each.pixels.size_y): each for each in ome.images[::-1]}
    image = stated.get(size)
    if image is None:
        detail = f"it states {' and '.join(f'{each} px' for each in stated)}, level 0 has {size} px"
        return Finding("schema", _BY_XML, Verdict.FAILED, detail), None
    facts = Facts(tiff.facts.levels, _mpp(image), _magnification(ome, image))
    return Finding("schema", _BY_XML, Verdict.OK, "valid OME-XML"), facts


def _chosen(tiff: TifffileReader, *, full: bool) -> Iterator[tuple[int, int, int, int]]:
    """Tiles as (level, index, offset, bytes), including the first and last of each level."""
    for level in range(len(tiff.facts.levels)):
        tiles = list(tiff.tiles(level))
        last = len(tiles) - 1
        wanted = range(len(tiles)) if full else range(min(len(tiles), _SAMPLED_TILES))
        step = 1 if full or len(tiles) <= _SAMPLED_TILES else last / (_SAMPLED_TILES - 1)
        for each in wanted:
            yield level, *tiles[round(each * step)]


def _mpp(image: Image) -> Mpp | None:
    pixels = image.pixels
    x, y = pixels.physical_size_x, pixels.physical_size_y
    um_x = _UM.get(str(pixels.physical_size_x_unit.value))
    um_y = _UM.get(str(pixels.physical_size_y_unit.value))
    return Mpp(x * um_x, y * um_y) if x and y and um_x and um_y else None


def _magnification(ome: OME, image: Image) -> float | None:
    settings = image.objective_settings
    objectives = (each for instrument in ome.instruments for each in instrument.objectives)
    found = next((each for each in objectives if settings and each.id == settings.id), None)
    return found.nominal_magnification if found else None
