"""What is asked of any file before a library opens it."""

from __future__ import annotations

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
