"""The images of a comparison: a high resolution each, optionally with their own low one."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slidesr.benchmark.results import Subject
from slidesr.errors import RefusedError
from slidesr.imaging.image_files import group_of, image_paths, image_size

_MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class ImagePair:
    """A high-resolution image, and its low resolution unless that is derived from it."""

    subject: Subject
    high: Path
    low: Path | None = None

    @property
    def scale(self) -> int | None:
        """The factor between the two; raises RefusedError if it is not an integer."""
        if self.low is None:
            return None
        high, low = image_size(self.high), image_size(self.low)
        scale = high.width // low.width
        if scale < 2 or low * scale != high:
            raise RefusedError(
                f"{self.low}: {low} px; {self.high.name} with {high} px is not 2, 3, ... times as"
                " large."
                " Crop both to the same region."
            )
        return scale


def find_pairs(data: Path) -> list[ImagePair]:
    """Lists the images of a folder or of a manifest (CSV), or a single image, sorted by name.

    A manifest's column `file` is a path relative to the manifest; `dataset`, `slide`, `label` and
    `mpp` (um per pixel) are optional. For a folder they come from its manifest.csv, and the data
    set of an image is the top folder it lies in.
    """
    if data.is_file() and data.suffix.lower() != ".csv":
        return [_pair(data, data.parent, {}, named=False)]
    if data.is_file():
        rows = _manifest(data)
        files = [data.parent / name for name in sorted(rows)]
        missing = next((file for file in files if not file.is_file()), None)
        if missing:
            raise RefusedError(f"{data}: lists {missing}, which does not exist")
        return [_pair(file, data.parent, rows, named=True) for file in files]
    if not data.is_dir():
        raise RefusedError(f"{data}: no such file or folder")
    rows = _manifest(data / _MANIFEST) if (data / _MANIFEST).is_file() else {}
    return [_pair(path, data, rows, named=False) for path in image_paths(data)]


def match_pairs(low: Path, high: Path) -> list[ImagePair]:
    """Pairs the images of two folders by relative path, ignoring suffixes."""
    lows = {path.relative_to(low).with_suffix(""): path for path in image_paths(low)}
    pairs = find_pairs(high)
    for pair in pairs:
        if pair.high.relative_to(high).with_suffix("") not in lows:
            raise RefusedError(f"{pair.high}: has no counterpart in {low}")
    matched = [
        ImagePair(pair.subject, pair.high, lows[pair.high.relative_to(high).with_suffix("")])
        for pair in pairs
    ]
    scales = sorted({pair.scale or 0 for pair in matched})
    if len(scales) > 1:
        raise RefusedError(f"{high}: pairs of x{scales[0]} and x{scales[1]}. Give one at a time.")
    return matched


def _pair(
    path: Path, folder: Path, rows: Mapping[str, dict[str, str]], *, named: bool
) -> ImagePair:
    name = path.relative_to(folder).as_posix()
    row = rows.get(name, {})
    said = row.get("dataset", "") if named else ""
    subject = Subject(
        name,
        said or group_of(path, folder),
        row.get("slide", ""),
        row.get("label", ""),
        _number(row.get("mpp", "")),
    )
    return ImagePair(subject, path)


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    """The manifest's rows by file name."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval="", strict=True))
        return {row["file"]: row for row in rows}
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise RefusedError(f"{path}: not a manifest: it needs the column file ({error})") from error


def _number(text: str) -> float | None:
    """The first number in a hand-written cell.

    >>> _number("~0.243 (0.226-0.243)"), _number("unknown")
    (0.243, None)
    """
    found = re.search(r"\d+\.?\d*|\.\d+", text)
    return float(found[0]) or None if found else None
