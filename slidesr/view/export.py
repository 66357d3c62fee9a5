"""Exports an exhibit as a DeepZoom folder, to open from the disk or any web server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.runtime.names import check_name, hidden_beside
from slidesr.runtime.ordered_map import ordered_map
from slidesr.runtime.paths import refuse_existing
from slidesr.view.exhibit import Exhibit, facts_json
from slidesr.view.page import ASSETS, page_html
from slidesr.view.tiles import TILE_PX, Tiles

_DZI = """<?xml version="1.0" encoding="UTF-8"?>
<Image xmlns="http://schemas.microsoft.com/deepzoom/2008"
 Format="jpg" Overlap="0" TileSize="{tile}">
<Size Width="{width}" Height="{height}"/></Image>
"""


@dataclass(frozen=True)
class _TileKey:
    """One tile of one image."""

    image: int
    level: int
    column: int
    row: int


def export(
    shown: Exhibit,
    folder: Path,
    report: Callable[[int, int], None] = lambda done, of: None,
    *,
    overwrite: bool = False,
) -> int:
    """Writes index.html and all tiles; the folder appears whole or not at all.

    Returns the number of tiles; `report` receives the number done and the total. Raises
    RefusedError where the folder exists and must not be replaced, or is not an export.
    """
    check_name(folder)
    if folder.exists() and not (folder / "view.js").is_file():
        raise RefusedError(f"{folder}: exists already and is not an export. Choose another folder.")
    refuse_existing(folder, overwrite=overwrite)
    if not folder.parent.is_dir():
        raise RefusedError(f"{folder}: there is no folder {folder.parent}. Create it first.")
    part = hidden_beside(folder, ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        count = _write(shown, part, report)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def _write(shown: Exhibit, part: Path, report: Callable[[int, int], None]) -> int:
    part.mkdir()
    for asset in ASSETS.values():
        (part / asset.name).write_bytes(asset.read_bytes())
    (part / "tissue.png").write_bytes(shown.tissue_png())
    keys = list(_tile_keys(shown))
    tiles = [placed.tiles for placed in shown.placed]

    def write(key: _TileKey) -> None:
        jpeg = tiles[key.image].jpeg(key.level, key.column, key.row)
        file = part / f"{key.image}_files/{key.level}/{key.column}_{key.row}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg or b"")

    with closing(ordered_map(write, keys, workers=2, ahead=8)) as written:
        for done, _ in enumerate(written, 1):
            report(done, len(keys))
    for image, placed in enumerate(shown.placed):
        size = placed.slide.size
        dzi = _DZI.format(tile=TILE_PX, width=size.width, height=size.height)
        (part / f"{image}.dzi").write_text(dzi)
    html = page_html(facts_json(shown), is_served=False)
    (part / "index.html").write_text(html, encoding="utf-8")
    return len(keys)


def _tile_keys(shown: Exhibit) -> Iterator[_TileKey]:
    for image, placed in enumerate(shown.placed):
        for level in range(placed.tiles.last + 1):
            columns, rows = _grid(placed.tiles, level)
            for row in range(rows):
                for column in range(columns):
                    yield _TileKey(image, level, column, row)


def _grid(tiles: Tiles, level: int) -> tuple[int, int]:
    size = tiles.size(level)
    return -(-size.width // TILE_PX), -(-size.height // TILE_PX)
