"""Arranges the evaluation images into DATA/valid and DATA/test, by docs/data/split.csv.

Weights are chosen on `valid` and reported on `test`. SOURCE holds the images listed in the column
`source`; docs/data/README.md says where they are from.

    python benchmarks/split_data.py SOURCE DATA
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from itertools import groupby
from pathlib import Path

SPLIT = Path(__file__).parent.parent / "docs/data/split.csv"
_IN_MANIFEST = ("file", "dataset", "slide", "label", "mpp", "sha256")

Row = dict[str, str]


def rows_of(split: Path) -> list[Row]:
    """Reads the list of images, one row each."""
    with split.open(newline="") as file:
        return list(csv.DictReader(file))


def arrange(rows: list[Row], source: Path, data: Path) -> None:
    """Copies the images and writes a manifest.csv for each part; stops at a file that differs."""
    for part, members in groupby(sorted(rows, key=_part), key=_part):
        folder, listed = data / part, list(members)
        for row in listed:
            _copy(source / row["source"], folder / row["file"], row["sha256"])
        with (folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, _IN_MANIFEST, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(listed)
        print(f"{folder}: {len(listed)} images")


def _copy(source: Path, target: Path, sha256: str) -> None:
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{source}: not the file of {SPLIT.name}: its sha256 differs")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _part(row: Row) -> str:
    return row["split"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    arrange(rows_of(SPLIT), given.source, given.data)
