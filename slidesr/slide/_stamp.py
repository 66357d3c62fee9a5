"""What tells one state of a slide's file from another."""

from __future__ import annotations

import os
from pathlib import Path

from slidesr.errors import SlidesrError
from slidesr.slide._zarr import is_store

Stamp = tuple[int, int]


def stamp_of(path: Path) -> Stamp:
    """Bytes, and nanoseconds of the last change; of a Zarr folder those of all its files.

    A store behind a URL is taken not to change: (0, 0). Raises SlidesrError where the file is gone.
    """
    try:
        if path.is_dir():
            stats = [entry for name in os.walk(path) for entry in _stats(Path(name[0]), name[2])]
        elif not path.exists() and is_store(path):
            return 0, 0
        else:
            stats = [path.stat()]
    except OSError as error:
        raise SlidesrError(f"{path}: is gone: {error.strerror}") from error
    return sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0)


def _stats(folder: Path, names: list[str]) -> list[os.stat_result]:
    return [(folder / name).stat() for name in names]
