"""The images of a comparison: high resolution, optionally with a given low resolution."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slidesr.benchmark.results import Subject
from slidesr.errors import RefusedError
from slidesr.slide.image_files import group_of, image_paths, image_size

_MANIFEST = "manifest.csv"
_BREAKHIS = re.compile(r"SOB_([BM])_[A-Z]+-(\d+-\d+[A-Z]*)-\d+-\d+")


@dataclass(frozen=True)
class ImagePair:
    """A high-resolution image; `low` is its given low resolution, None to compute it."""

    subject: Subject
    high: Path
    low: Path | None = None

    @property
    def scale(self) -> int | None:
        """The scale between the two, None without `low`; RefusedError unless it is an integer."""
        if self.low is None:
            return None
        high, low = image_size(self.high), image_size(self.low)
        scale = high.width // low.width
        if scale < 2 or low * scale != high:
            raise RefusedError(
                f"{self.low}: {low} px; {self.high.name}'s {high} px are not an integer multiple of"
                " it. Crop both to the same place."
            )
        return scale


def find_pairs(data: Path) -> list[ImagePair]:
    """Finds the images of a folder, of a CSV manifest, or a single image, sorted by name.

    A manifest's column `file` holds paths relative to the manifest; `dataset`, `slide`, `label` and
    `mpp` (um per pixel) are optional. A manifest.csv in the folder supplies these for its images,
    except the data set, which is the top-level subfolder. Names of BreaKHis tell slide and label
    where a manifest does not. Raises RefusedError on missing files.
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
    """Pairs the images of two folders by relative path without suffix.

    Raises RefusedError if a partner is missing or the scales differ.
    """
    lows = {path.relative_to(low).with_suffix(""): path for path in image_paths(low)}
    pairs = find_pairs(high)
    for pair in pairs:
        if pair.high.relative_to(high).with_suffix("") not in lows:
            raise RefusedError(f"{pair.high}: no image of that name in {low}")
    matched = [
        ImagePair(pair.subject, pair.high, lows[pair.high.relative_to(high).with_suffix("")])
        for pair in pairs
    ]
    scales = sorted({pair.scale or 0 for pair in matched})
    if len(scales) > 1:
        raise RefusedError(
            f"{high}: contains pairs of x{scales[0]} and x{scales[1]}. Compare one scale at a time."
        )
    return matched


def _pair(
    path: Path, folder: Path, rows: Mapping[str, dict[str, str]], *, named: bool
) -> ImagePair:
    name = path.relative_to(folder).as_posix()
    row = rows.get(name, {})
    data = row.get("dataset", "") if named else ""
    slide, label = breakhis_facts(path.stem)
    subject = Subject(
        name,
        data or group_of(path, folder),
        row.get("slide") or slide,
        row.get("label") or label,
        _number(row.get("mpp", "")),
    )
    return ImagePair(subject, path)


def breakhis_facts(name: str) -> tuple[str, str]:
    """Slide and label from a file name of BreaKHis (Spanhol et al. 2016, IEEE TBME 63:1455).

    SOB_[BM]_TYPE-YEAR-SLIDE-MAGNIFICATION-NUMBER; year and slide identify the patient, letters
    behind them a part of the case. Other names give two empty strings.

    >>> breakhis_facts("SOB_B_TA-14-22549AB-400-019"), breakhis_facts("tumor_001_1209")
    (('14-22549AB', 'benign'), ('', ''))
    """
    found = _BREAKHIS.fullmatch(name)
    if not found:
        return "", ""
    return found[2], "benign" if found[1] == "B" else "malignant"


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    """Reads a manifest: file -> row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval="", strict=True))
        return {row["file"]: row for row in rows}
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise RefusedError(
            f"{path}: not a manifest: the column file is required ({error})"
        ) from error


def _number(text: str) -> float | None:
    """Parses the first number in a free-text cell.

    >>> _number("~0.243 (0.226-0.243)"), _number("unknown")
    (0.243, None)
    """
    found = re.search(r"\d+\.?\d*|\.\d+", text)
    return float(found[0]) or None if found else None
