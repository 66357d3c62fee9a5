"""The images for validation and test: apart from each other, and found by their content."""

from __future__ import annotations

import hashlib
import re
from itertools import product
from pathlib import Path

import pytest
from split_data import SPLIT, Row, arrange, rows_of

PATCH_PX = 256


def _place(row: Row) -> tuple[int, int]:
    x, y = re.findall(r"_(\d+)_(\d+)\.", row["file"])[0]
    return int(x), int(y)


def test_no_image_and_no_pixel_is_in_both_parts() -> None:
    rows = rows_of(SPLIT)
    valid, test = ([row for row in rows if row["split"] == part] for part in ("valid", "test"))
    assert len(valid) + len(test) == len(rows)
    assert not {row["sha256"] for row in valid} & {row["sha256"] for row in test}
    shared = {row["slide"] for row in valid} & {row["slide"] for row in test}
    assert shared == {"tumor_073"}
    patches = [[row for row in part if row["slide"] == "tumor_073"] for part in (valid, test)]
    for (x, y), (u, v) in product(*(map(_place, part) for part in patches)):
        assert max(abs(x - u), abs(y - v)) >= PATCH_PX


def test_images_are_copied_with_a_manifest_and_a_different_file_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source/a.png"
    source.parent.mkdir()
    source.write_bytes(b"pixels")
    row = {"split": "test", "file": "set/b.png", "source": "a.png", "dataset": "set", "slide": "s"}
    row |= {"label": "tumor", "mpp": "0.25", "sha256": hashlib.sha256(b"pixels").hexdigest()}
    arrange([row], source.parent, tmp_path / "data")
    assert (tmp_path / "data/test/set/b.png").read_bytes() == b"pixels"
    manifest = (tmp_path / "data/test/manifest.csv").read_text().splitlines()
    assert manifest[1].startswith("set/b.png,set,s,tumor,0.25,")
    source.write_bytes(b"others")
    with pytest.raises(SystemExit, match="sha256 differs"):
        arrange([row], source.parent, tmp_path / "again")
