"""What is asked of any file before a library opens it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from slidesr.errors import RefusedError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
"""What Pillow may open, by its names. Not EPS, say: for that it starts Ghostscript."""


def check_file(path: Path) -> None:
    """Refuses what is no regular file, or has nothing in it: readers hang on a pipe."""
    try:
        status = path.stat()
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror or error}. Give another file.") from error
    except ValueError as error:  # a NUL in the name
        raise RefusedError(f"{path!r}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{path}: it is a folder, a pipe or a device. Give a file.")
    if not status.st_size:
        raise RefusedError(f"{path}: it is empty. Give another file.")


_MARKS = (".zgroup", ".zattrs", "zarr.json")
# A scheme has two letters or more; a path has made one slash of the two.
_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,3}(?=[^/])")


def is_store(path: Path) -> bool:
    """Whether a path is a Zarr store: a folder with its marks, a zip of one, or a URL."""
    if is_remote(path) or path.name.lower().endswith(".zarr.zip"):
        return True
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def is_remote(path: Path) -> bool:
    """Whether a path is a URL; a folder of ours may be called `ab:` too."""
    return _URL.match(str(path)) is not None and not path.exists()


def as_typed(path: Path) -> str:
    """A path as its user typed it: of a URL, which a path has shortened, all slashes.

    >>> as_typed(Path("s3://bucket/a.zarr")), as_typed(Path("a.zarr"))
    ('s3://bucket/a.zarr', 'a.zarr')
    """
    url = _URL.match(str(path)) if is_remote(path) else None
    if url is None:
        return str(path)
    scheme, rest = url.group(1), str(path)[url.end() :]
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"
