"""The table of docs/formats.md: which reader shows which compression, measured.

Differences are in grey levels, the largest of any sample of any level: of what is stored without
loss from the pixels that were written, of JPEG from what tifffile decodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidesr.output.compression import Compression
from slidesr.output.pyramid import halved
from support.blocks import Sheet, stained
from support.readers import PROGRAMS, Program, by_tifffile

U8 = NDArray[np.uint8]
DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
NAMES = ("jpeg", "jpeg-rgb", "lzw", "deflate")
LOSSLESS = ("lzw", "deflate")
LEVELS = 4
JPEG_ROUNDING = 2  # grey levels that decoders may differ by
_HEAD = f"| reader | used by | levels | {' | '.join(f'`{name}`' for name in NAMES)} |"
_TABLE = re.compile(r"(<!-- tests/matrix.py -->\n).*?(<!-- end -->)", re.DOTALL)


def write_slides(folder: Path) -> dict[str, Path]:
    """A slide of four levels in each compression, odd sizes on each level."""
    image = stained(1051, 779)
    return {
        name: Sheet(image, Compression(name, 95), "hybrid", 256).write(folder / f"{name}.ome.tif")
        for name in NAMES
    }


def source_levels() -> list[U8]:
    """What was written, before it was compressed."""
    levels = [stained(1051, 779)]
    while len(levels) < LEVELS:
        levels.append(halved(levels[-1]))
    return levels


def measured_row(program: Program, slides: dict[str, Path]) -> str:
    """One row of the table. Raises AbsentError where the program is not here."""
    counts, cells = set(), []
    for name, path in slides.items():
        seen = program.levels(path)
        counts.add(len(seen))
        wanted = source_levels() if name in LOSSLESS else by_tifffile(path)
        cells.append(_cell(_difference(seen, wanted), name))
    levels = "all" if counts == {LEVELS} else f"{min(counts)} of {LEVELS}"
    return f"| {' | '.join([program.name, program.used_by, levels, *cells])} |"


def documented_rows() -> dict[str, str]:
    """The rows of the table in the docs, by the reader's name."""
    table = _TABLE.search(DOCS.read_text())
    assert table is not None
    rows = [line for line in table[0].splitlines() if line.startswith("| ")]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows[1:]}


def _difference(seen: list[U8], wanted: list[U8]) -> int:
    pairs = zip(seen, wanted, strict=False)
    return max(int(np.abs(level.astype(int) - same).max()) for level, same in pairs)


def _cell(difference: int, name: str) -> str:
    if name in LOSSLESS:
        return "exact" if difference == 0 else f"**off by {difference}**"
    return f"to {max(difference, JPEG_ROUNDING)}"


def write_rows(rows: Mapping[str, str]) -> None:
    """Writes the table into the docs, in the order of the programs."""
    ordered = [rows[program.name] for program in PROGRAMS if program.name in rows]
    table = "\n".join([_HEAD, "|---" * (3 + len(NAMES)) + "|", *ordered, ""])
    DOCS.write_text(_TABLE.sub(lambda found: f"{found[1]}{table}{found[2]}", DOCS.read_text()))
