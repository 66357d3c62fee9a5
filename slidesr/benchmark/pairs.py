"""What is compared on: images of a high resolution, some with a low one of their own."""

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
    """An image, and its low resolution where that is not to be made from it."""

    subject: Subject
    high: Path
    low: Path | None = None

    @property
    def scale(self) -> int | None:
        """What lies between the two; RefusedError where that is no whole number."""
        if self.low is None:
            return None
        high, low = image_size(self.high), image_size(self.low)
        scale = high.width // low.width
        if scale < 2 or low * scale != high:
            raise RefusedError(
                f"{self.low}: {low} px, which {self.high.name}'s {high} px are no whole"
                " multiple of. Cut them to the same place."
            )
        return scale


def find_pairs(data: Path) -> list[ImagePair]:
    """The images of a folder, those that a manifest (CSV) lists, or one image; by their names.

    A manifest's column `file` is the path seen from its own folder; `dataset`, `slide`, `label` and
    `mpp` (um per pixel) are taken where they are there. A manifest.csv in the folder tells them of
    the images in it; the data set of an image in a folder is the folder's part that it lies in.
    """
    if data.is_file() and data.suffix.lower() != ".csv":
        return [_pair(data, data.parent, {}, named=False)]
    if data.is_file():
        rows = _manifest(data)
        files = [data.parent / name for name in sorted(rows)]
        missing = next((file for file in files if not file.is_file()), None)
        if missing:
            raise RefusedError(f"{data}: lists {missing}, which is not there")
        return [_pair(file, data.parent, rows, named=True) for file in files]
    if not data.is_dir():
        raise RefusedError(f"{data}: no such file or folder")
    rows = _manifest(data / _MANIFEST) if (data / _MANIFEST).is_file() else {}
    return [_pair(path, data, rows, named=False) for path in image_paths(data)]


def match_pairs(low: Path, high: Path) -> list[ImagePair]:
    """The images of two folders that have the same place and name in both, suffixes apart."""
    lows = {path.relative_to(low).with_suffix(""): path for path in image_paths(low)}
    pairs = find_pairs(high)
    for pair in pairs:
        if pair.high.relative_to(high).with_suffix("") not in lows:
            raise RefusedError(f"{pair.high}: has no partner of that name in {low}")
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
    """The rows by their file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval="", strict=True))
        return {row["file"]: row for row in rows}
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise RefusedError(f"{path}: no manifest: needs the column file ({error})") from error


def _number(text: str) -> float | None:
    """The first number in a cell that people wrote.

    >>> _number("~0.243 (0.226-0.243)"), _number("unknown")
    (0.243, None)
    """
    found = re.search(r"\d+\.?\d*|\.\d+", text)
    return float(found[0]) or None if found else None
