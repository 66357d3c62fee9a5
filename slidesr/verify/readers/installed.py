"""Chooses the readers for a kind of file, and opens those that are installed."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile

from slidesr.errors import RefusedError
from slidesr.runtime.dicom_folder import is_dicom, slide_file
from slidesr.runtime.paths import is_store, is_tiff, is_zarr_folder
from slidesr.verify.findings import Finding, Verdict
from slidesr.verify.readers.by_bioformats import BioFormatsReader
from slidesr.verify.readers.by_libvips import LibvipsReader
from slidesr.verify.readers.by_openslide import OpenSlideReader
from slidesr.verify.readers.by_tifffile import TifffileReader
from slidesr.verify.readers.by_zarr import ZarrReader
from slidesr.verify.readers.reader import NotInstalledError, Reader, UnreadableError


class Kind(Enum):
    """The kind of a slide, from its first bytes or files."""

    TIFF = "TIFF"
    ZARR = "OME-Zarr"
    DICOM = "DICOM"
    OTHER = "slide"


_READERS: dict[Kind, dict[str, Callable[[Path], Reader]]] = {
    Kind.TIFF: {
        "tifffile": TifffileReader,
        "OpenSlide": OpenSlideReader,
        "libvips": LibvipsReader,
        "Bio-Formats": BioFormatsReader,
    },
    Kind.ZARR: {"zarr": ZarrReader},
    Kind.DICOM: {"OpenSlide": OpenSlideReader, "Bio-Formats": BioFormatsReader},
    Kind.OTHER: {"OpenSlide": OpenSlideReader, "Bio-Formats": BioFormatsReader},
}
"""By kind; the first is the one that the others are compared with."""


def kind_of(path: Path) -> tuple[Kind, Path]:
    """The kind of a path, and the file to open: any of a DICOM folder. Raises RefusedError."""
    if not path.exists():
        raise RefusedError(f"{path}: No such file or directory")
    if path.is_dir():
        if is_zarr_folder(path):
            return Kind.ZARR, path
        return Kind.DICOM, slide_file(path)
    if not path.is_file() or not path.stat().st_size:
        raise RefusedError(f"{path}: not a slide: it is empty, or no regular file")
    if is_store(path):
        return Kind.ZARR, path
    if is_tiff(path):
        return Kind.TIFF, path
    return Kind.DICOM if is_dicom(path) else Kind.OTHER, path


def open_readers(kind: Kind, path: Path, *, is_ours: bool) -> tuple[list[Reader], list[Finding]]:
    """The readers that open the file, and a finding for each reader.

    A file written by slidesr must open everywhere; other files may be unsupported by a reader.
    """
    opened: list[Reader] = []
    findings = []
    for name, open_ in _READERS[kind].items():
        try:
            reader = open_(path)
        except NotInstalledError as error:
            findings.append(Finding("opens", name, Verdict.NOT_INSTALLED, str(error)))
        except UnreadableError as error:
            outcome = Verdict.FAILED if is_ours else Verdict.ABSENT
            findings.append(Finding("opens", name, outcome, str(error)))
        else:
            opened.append(reader)
            findings.append(Finding("opens", reader.name, Verdict.OK))
    if not opened:
        findings.append(Finding("opens", "any", Verdict.FAILED, "no reader opens it"))
    return opened, findings


def try_readers() -> list[Finding]:
    """How each reader of TIFF does with a small file that every one of them opens."""
    with TemporaryDirectory(prefix="slidesr-") as folder:
        path = Path(folder) / "white.tif"
        white = np.full((64, 64, 3), 255, np.uint8)
        tifffile.imwrite(path, white, tile=(64, 64), photometric="rgb")
        opened, findings = open_readers(Kind.TIFF, path, is_ours=True)
        for reader in opened:
            reader.close()
    return findings
