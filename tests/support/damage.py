"""Damage to slides."""

from __future__ import annotations

from pathlib import Path

import tifffile

from slidesr.geometry import Box


def break_tile(path: Path, tile: Box, page: int = 0) -> None:
    """Overwrites a stored tile with what no decoder takes."""
    with tifffile.TiffFile(path) as tiff:
        directory = tiff.pages[page].aspage()
        columns = -(-directory.imagewidth // directory.tilewidth)
        side = directory.tilewidth
        index = tile.y // side * columns + tile.x // side
        offset, count = directory.dataoffsets[index], directory.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x55" * count)
