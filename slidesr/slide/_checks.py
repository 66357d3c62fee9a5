"""What no real slide says of itself: refused before a pixel is read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from slidesr.geometry import Size
from slidesr.slide._source import unreadable

# Measured: a 32768 px tile aborts the process inside OpenSlide, where nothing can be caught.
MAX_TILE_BYTES = 256 * 2**20
_MAX_SIDE_PX = 2**24
_MAX_AREA_PX = 2**42  # two million px square: the largest slides, upscaled by 16
_MAX_LEVELS = 32
_LEAST_PLACE_BYTES = 6  # an offset of four and a count of two
_TILE = Size(512, 512)  # where the file names none
_ROUNDED_PX = 8


def check_sane(path: Path, sizes: Sequence[Size], tiles: Sequence[Size]) -> None:
    """Refuses a file whose levels or tiles no real slide has, before a pixel is read."""
    for size in sizes:
        if max(size.width, size.height) > _MAX_SIDE_PX or size.area > _MAX_AREA_PX:
            raise unreadable(path, f"a level of {size} px is beyond any real slide")
    for tile in tiles:
        if tile.area * 4 > MAX_TILE_BYTES:
            raise unreadable(path, f"a tile of {tile} px takes over {MAX_TILE_BYTES >> 20} MiB")
    if len(sizes) > _MAX_LEVELS:
        raise unreadable(path, f"{len(sizes)} levels are more than any real slide has")
    for finer, coarser in pairwise(sizes):
        if coarser.area >= finer.area or not _alike(sizes[0], coarser):
            raise unreadable(path, f"a level of {coarser} px does not go with one of {finer} px")
    _check_share(path, sizes[0], tiles[0] if tiles else _TILE)


def _alike(first: Size, level: Size) -> bool:
    """Whether both sides shrink about alike; a few pixels more or less are not counted."""
    across, down = first.width / level.width, first.height / level.height
    factor = math.sqrt(first.area / level.area)
    return (
        max(across, down) <= 2 * min(across, down)
        or abs(level.width - first.width / factor) <= _ROUNDED_PX
        or abs(level.height - first.height / factor) <= _ROUNDED_PX
    )


def _check_share(path: Path, size: Size, tile: Size) -> None:
    """Refuses a TIFF with fewer bytes than the places of its tiles take, and so without most."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        is_tiff = file.read(2) in (b"II", b"MM")
    count = -(-size.width // tile.width) * -(-size.height // tile.height)
    held = path.stat().st_size
    if is_tiff and count * _LEAST_PLACE_BYTES > held:
        raise unreadable(path, f"{held} bytes cannot hold the {count} tiles of {size} px")


_MOST_BYTES = 1 << 20  # a real index has some kilobytes
_NAMED_FILE = re.compile(r"^\s*([^=#\[]*(?:file|image)[^=]*?)\s*=\s*(.*?)\s*$", re.I | re.M)


def refuse_names_elsewhere(path: Path, vendor: str | None) -> None:
    """Refuses a slide whose index names a file outside its folder: OpenSlide would open that."""
    if vendor == "mirax":
        index = path.with_suffix("") / "Slidedat.ini"
    elif vendor == "hamamatsu" and path.suffix.lower() in (".vms", ".vmu"):
        index = path
    else:
        return
    with index.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise unreadable(path, f"its index {index.name} is larger than {_MOST_BYTES >> 20} MiB")
    for key, name in _NAMED_FILE.findall(text.decode("latin-1")):
        if _leads_out(name):
            raise unreadable(path, f"its index names a file outside its folder: {key} = {name}")


def _leads_out(name: str) -> bool:
    """
    >>> [_leads_out(name) for name in ("Data0000.dat", "a/b.jpg", "../b", "/etc/b", "c:b")]
    [False, False, True, True, True]
    """
    windows = PureWindowsPath(name)
    return bool(".." in windows.parts or windows.anchor or PurePosixPath(name).is_absolute())
