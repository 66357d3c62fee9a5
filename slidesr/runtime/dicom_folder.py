"""DICOM slides: a folder with one file for each level, all of one series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from slidesr.errors import RefusedError

_MAGIC_AT, _MAGIC = 128, b"DICM"
_WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_HEAD_BYTES = 1024  # the class is among the first elements
_SERIES = 0x0020000E  # Series Instance UID
_MOST_NAMED = 3


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file of any class."""
    return _head(path)[_MAGIC_AT:].startswith(_MAGIC)


def dicom_files(folder: Path) -> list[Path]:
    """The files of DICOM slides in a folder, by name; none where it holds other files only."""
    return sorted(
        path for path in folder.iterdir() if is_dicom(path) and _WHOLE_SLIDE in _head(path)
    )


def one_file_a_slide(files: Sequence[Path]) -> list[Path]:
    """The first file of each series; of all files where pydicom is missing or reads none."""
    if len(files) < 2:
        return list(files)
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(_series(file), file)
    return [file for series, file in first.items() if series] or list(files[:1])


def slide_file(path: Path) -> Path:
    """The file by which a slide is opened: the first of a DICOM folder, else the path itself.

    Raises RefusedError for a folder of several slides, and for any other folder.
    """
    if not path.is_dir():
        return path
    slides = one_file_a_slide(dicom_files(path))
    if not slides:
        raise RefusedError(
            f"{path}: is a folder that holds neither OME-Zarr nor DICOM. Give the slide's file."
        )
    if len(slides) > 1:
        names = ", ".join(file.name for file in slides[:_MOST_NAMED])
        more = ", ..." if len(slides) > _MOST_NAMED else ""
        raise RefusedError(
            f"{path}: holds {len(slides)} DICOM slides. Give a file of one: {names}{more}"
        )
    return slides[0]


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; empty for anything else, and where it cannot be read."""
    with suppress(OSError, ValueError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(_HEAD_BYTES)
    return b""


def _series(file: Path) -> str:
    """The series of a DICOM file; empty where pydicom is missing or cannot tell."""
    try:
        from pydicom.filereader import read_partial
    except ImportError:
        return ""
    try:
        with warnings.catch_warnings(action="ignore"), file.open("rb") as opened:
            read = read_partial(opened, stop_when=lambda tag, vr, length: tag > _SERIES)
            return str(read.get("SeriesInstanceUID", ""))
    except Exception:  # pydicom raises anything on a broken file
        return ""
