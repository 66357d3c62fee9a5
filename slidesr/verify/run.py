"""Verifies one file: opens it with every reader and runs every check.

The checks use other libraries alone. Only two findings use slidesr's own reader: `open_slide` says
which image it reads and how, and gives the provenance, whose format is slidesr's own. The
provenance also decides whether the file is one of ours, which every reader must be able to open. A
file that `open_slide` refuses is verified as a foreign one, and the findings say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from slidesr import __version__
from slidesr.errors import RefusedError
from slidesr.slide import Slide, open_slide
from slidesr.verify.checks import tiff_file, zarr_store
from slidesr.verify.checks.agreement import (
    levels_agree,
    magnifications_agree,
    pixel_sizes_agree,
    pixels_agree,
)
from slidesr.verify.checks.colour_profile import profile_fits
from slidesr.verify.findings import Finding, Verdict, Verification
from slidesr.verify.readers.by_tifffile import TifffileReader
from slidesr.verify.readers.by_zarr import ZarrReader
from slidesr.verify.readers.installed import kind_of, open_readers
from slidesr.verify.readers.reader import Reader

_JPEG_TOLERANCE = 2  # grey levels: decoders may round the inverse transform differently
_SELF = f"slidesr {__version__}"
_REQUIRED_KEYS = ("synthetic", "model", "model_sha256", "scale")


def verify(path: Path, *, full: bool = False) -> Verification:
    """Verifies a slide file, an OME-Zarr store or a DICOM folder, written by slidesr or others.

    `full` decodes every tile instead of at most 64 per level. Raises RefusedError for what is not a
    slide at all. Memory: a tile, or a whole level below 16 megapixels.
    """
    kind, file = kind_of(path)
    own, is_ours = _own_findings(file)
    with ExitStack() as stack:
        readers, findings = open_readers(kind, file, is_ours=is_ours)
        for reader in readers:
            stack.callback(reader.close)
        if readers:
            findings += _compared(readers, full=full, is_ours=is_ours)
    return Verification(path, tuple(findings + own))


def _compared(readers: Sequence[Reader], *, full: bool, is_ours: bool) -> list[Finding]:
    tiff = next((each for each in readers if isinstance(each, TifffileReader)), None)
    store = next((each for each in readers if isinstance(each, ZarrReader)), None)
    facts_by_reader = {reader.name: reader.facts for reader in readers}
    own: list[Finding] = []
    if tiff is not None:
        schema, facts = tiff_file.schema_holds(tiff)
        own = [tiff_file.tiles_decode(tiff, full=full, is_ours=is_ours), schema]
        facts_by_reader |= {schema.by: facts} if facts else {}
    if store is not None:
        own = [
            zarr_store.chunks_decode(store, full=full),
            zarr_store.schema_holds(store),
            zarr_store.scales_fit(store),
            zarr_store.shows_as_rgb(store),
        ]
    exact = tiff is not None and tiff.is_lossless
    return [
        *levels_agree(readers, promised=tiff is not None and tiff.layout == "hybrid"),
        *pixel_sizes_agree({by: facts.mpp for by, facts in facts_by_reader.items()}),
        *magnifications_agree({by: facts.magnification for by, facts in facts_by_reader.items()}),
        *pixels_agree(readers, tolerance=0 if exact else _JPEG_TOLERANCE, is_ours=is_ours),
        *own,
        profile_fits(readers[0]),
    ]


def _own_findings(path: Path) -> tuple[list[Finding], bool]:
    """The finding about provenance, and whether slidesr wrote the file."""
    try:
        with open_slide(path) as slide:
            is_ours = bool(slide.provenance) or slide.properties.get("tiff.Software") == "slidesr"
            return [_image(slide), _provenance(slide)], is_ours
    except RefusedError as error:
        refused = str(error).removeprefix(f"{path}: ")
        return [Finding("image", _SELF, Verdict.ABSENT, f"slidesr refuses it: {refused}")], False


def _image(slide: Slide) -> Finding:
    """Which image of the file slidesr reads, and how."""
    choice = slide.choice
    left_out = [f"left out: {', '.join(choice.left_out)}"] if choice.left_out else []
    detail = "; ".join(filter(None, (choice.image, choice.why, *choice.conversions, *left_out)))
    return Finding("image", _SELF, Verdict.OK, detail)


def _provenance(slide: Slide) -> Finding:
    provenance = slide.provenance
    if provenance.get("synthetic") != "true":
        return Finding("provenance", _SELF, Verdict.ABSENT, "it does not say that it was upscaled")
    missing = [key for key in _REQUIRED_KEYS if not provenance.get(key)]
    if missing:
        return Finding("provenance", _SELF, Verdict.FAILED, f"lacks {', '.join(missing)}")
    model = f"{provenance['model']} ({provenance['model_sha256'][:12]})"
    detail = f"synthetic, x{provenance['scale']} by {model}"
    return Finding("provenance", _SELF, Verdict.OK, detail)
