"""Paths that users give: files, Zarr stores, URLs and outputs, checked before they are opened."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from slidesr.errors import RefusedError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
"""What Pillow may open, by its names. Not EPS, for example, which starts Ghostscript."""

ZARR_MARKERS = (".zgroup", ".zattrs", "zarr.json")
"""The files at the root of a Zarr group, of which a store has at least one (v2 and v3)."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order

# A scheme has two letters or more; `Path` collapses the two slashes to one.
_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,3}(?=[^/])")


def check_file(path: Path) -> None:
    """Refuses what is not a regular file or is empty: readers hang on a pipe."""
    try:
        status = path.stat()
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror or error}. Give another file.") from error
    except ValueError as error:  # a NUL in the name
        raise RefusedError(f"{path!r}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{path}: is a folder, a pipe or a device. Give a file.")
    if not status.st_size:
        raise RefusedError(f"{path}: is empty. Give another file.")


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raises RefusedError where the output exists and must not be replaced."""
    if path.exists() and not overwrite:
        raise output_exists(path)


def output_exists(path: Path | str) -> RefusedError:
    """The error for an output that exists, for those who find out by other means."""
    return RefusedError(f"{path}: exists already. Replace it with --overwrite.")


def is_store(path: Path) -> bool:
    """Whether a path is a Zarr store: a folder with its markers, a zipped store, or a URL."""
    if is_remote(path) or path.name.lower().endswith(".zarr.zip"):
        return True
    return is_zarr_folder(path)


def is_zarr_folder(path: Path) -> bool:
    return path.is_dir() and any((path / marker).is_file() for marker in ZARR_MARKERS)


def is_tiff(path: Path) -> bool:
    """Whether a file starts as a TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in _TIFF_MAGIC


def name_of(path: Path) -> str:
    """The name of a file or folder, also of `.` and `..`."""
    return path.resolve().name if path.name in ("", "..") else path.name


def is_remote(path: Path) -> bool:
    """Whether a path is a URL; a local folder may be called `ab:` too."""
    return _URL.match(str(path)) is not None and not path.exists()


def as_typed(path: Path) -> str:
    """A path as the user typed it: a URL gets back the slash that `Path` dropped.

    >>> as_typed(Path("s3://bucket/a.zarr")), as_typed(Path("a.zarr"))
    ('s3://bucket/a.zarr', 'a.zarr')
    """
    url = _URL.match(str(path)) if is_remote(path) else None
    if url is None:
        return str(path)
    scheme, rest = url.group(1), str(path)[url.end() :]
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"
