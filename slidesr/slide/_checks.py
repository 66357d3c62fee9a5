"""Refuses files that no real slide resembles, before a pixel is read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from slidesr.geometry import Size
from slidesr.runtime.paths import is_tiff
from slidesr.slide.sources.source import unreadable

# Measured: a 32768 px tile aborts the process inside OpenSlide, where nothing can be caught.
MAX_TILE_BYTES = 256 * 2**20
_MAX_SIDE_PX = 2**24
_MAX_AREA_PX = 2**42  # two million px square: the largest slides at x16
_MAX_LEVELS = 32
_MIN_ENTRY_BYTES = 6  # of a tile: an offset of four and a count of two
_DEFAULT_TILE = Size(512, 512)  # where the file states none
_ROUNDED_PX = 8
_MAX_INDEX_BYTES = 1 << 20  # a real index has a few kilobytes
_NAMED_FILE = re.compile(r"^\s*([^=#\[]*(?:file|image)[^=]*?)\s*=\s*(.*?)\s*$", re.I | re.M)


def check_sane(
    path: Path,
    sizes: Sequence[Size],
    tiles: Sequence[Size],
    *,
    max_tile_bytes: int = MAX_TILE_BYTES,
) -> None:
    """Refuses a file whose level or tile sizes no real slide has."""
    for size in sizes:
        if max(size.width, size.height) > _MAX_SIDE_PX or size.area > _MAX_AREA_PX:
            raise unreadable(path, f"a level of {size} px is larger than any real slide")
    for tile in tiles:
        if tile.area * 4 > max_tile_bytes:
            raise unreadable(path, f"a tile of {tile} px takes over {max_tile_bytes >> 20} MiB")
    if len(sizes) > _MAX_LEVELS:
        raise unreadable(path, f"{len(sizes)} levels are more than any real slide has")
    for finer, coarser in pairwise(sizes):
        if coarser.area >= finer.area or not _alike(sizes[0], coarser):
            raise unreadable(path, f"a level of {coarser} px does not fit below one of {finer} px")
    _check_share(path, sizes[0], tiles[0] if tiles else _DEFAULT_TILE)


def refuse_names_elsewhere(path: Path, vendor: str | None) -> None:
    """Refuses a slide whose index names a file outside its folder, which OpenSlide would open."""
    if vendor == "mirax":
        index = path.with_suffix("") / "Slidedat.ini"
    elif vendor == "hamamatsu" and path.suffix.lower() in (".vms", ".vmu"):
        index = path
    else:
        return
    with index.open("rb") as file:
        text = file.read(_MAX_INDEX_BYTES + 1)
    if len(text) > _MAX_INDEX_BYTES:
        raise unreadable(
            path, f"its index {index.name} is larger than {_MAX_INDEX_BYTES >> 20} MiB"
        )
    for key, name in _NAMED_FILE.findall(text.decode("latin-1")):
        if _leads_out(name):
            raise unreadable(path, f"its index names a file outside its folder: {key} = {name}")


def _alike(first: Size, level: Size) -> bool:
    """Whether both sides shrink by about the same factor, give or take a few pixels."""
    across, down = first.width / level.width, first.height / level.height
    factor = math.sqrt(first.area / level.area)
    return (
        max(across, down) <= 2 * min(across, down)
        or abs(level.width - first.width / factor) <= _ROUNDED_PX
        or abs(level.height - first.height / factor) <= _ROUNDED_PX
    )


def _check_share(path: Path, size: Size, tile: Size) -> None:
    """Refuses a TIFF too small to hold even the offsets and byte counts of its tiles."""
    if not path.is_file():
        return
    count = -(-size.width // tile.width) * -(-size.height // tile.height)
    held = path.stat().st_size
    if is_tiff(path) and count * _MIN_ENTRY_BYTES > held:
        raise unreadable(path, f"{held} bytes cannot hold the {count} tiles of {size} px")


def _leads_out(name: str) -> bool:
    """
    >>> [_leads_out(name) for name in ("Data0000.dat", "a/b.jpg", "../b", "/etc/b", "c:b")]
    [False, False, True, True, True]
    """
    windows = PureWindowsPath(name)
    return bool(".." in windows.parts or windows.anchor or PurePosixPath(name).is_absolute())
