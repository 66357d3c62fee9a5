"""Which paths are Zarr stores, told without opening them."""

from __future__ import annotations

import re
from pathlib import Path

_MARKS = (".zgroup", ".zattrs", "zarr.json")
URL = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,3}(?=[^/])")
"""A scheme has two letters or more; a path has made one slash of the two."""


def is_store(path: Path) -> bool:
    """Whether a path is a Zarr store: a folder with its marks, a zip of one, or a URL."""
    if is_remote(path) or path.name.lower().endswith(".zarr.zip"):
        return True
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def is_remote(path: Path) -> bool:
    """Whether a path is a URL; a folder of ours may be called `ab:` too."""
    return URL.match(str(path)) is not None and not path.exists()
