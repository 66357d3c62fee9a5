"""Finds the slides of a batch: those named, those in folders, and those in lists."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidesr.errors import RefusedError, printable
from slidesr.pipeline.prepare import default_output
from slidesr.slide.folders import is_one_slide, slides_below

_RESULT = re.compile(r"\.x(2|4|8|16)\.ome\.(tif|zarr)$")


@dataclass(frozen=True)
class BatchItem:
    """A slide and its output."""

    source: Path
    output: Path


def find_items(inputs: Sequence[Path], folder: Path, scale: int) -> list[BatchItem]:
    """Finds the named slides and those in named folders and lists, with their outputs.

    The structure of a folder is repeated in `folder`. Results of slidesr and hidden files inside
    folders are left out; of DICOM files, which are many to a slide, the first of each slide is
    taken. Where two results would have one name, theirs keep the suffix of the slide.

    Raises RefusedError where there is none, or where two would still be one.
    """
    found = dict(found for path in inputs for found in _slides(path))
    if not found:
        raise RefusedError(f"{', '.join(map(str, inputs))}: no slides here")
    plain = {path: default_output(path, scale, folder / to) for path, to in found.items()}
    often = Counter(plain.values())
    items = [
        BatchItem(path, output if often[output] == 1 else _longer(path, output))
        for path, output in plain.items()
    ]
    twice = [
        output for output, count in Counter(item.output for item in items).items() if count > 1
    ]
    if twice:
        raise RefusedError(f"{twice[0]}: two slides have this name. Give one at a time, with -o.")
    return items


def _slides(path: Path) -> Iterator[tuple[Path, Path]]:
    """A slide, or all of a folder or list, each with its relative folder."""
    if path.suffix.lower() == ".csv" and not path.is_dir():
        yield from ((slide, Path()) for slide in _listed(path))
        return
    if is_one_slide(path):
        yield path, Path()
        return
    for slide in slides_below(path):
        if not _RESULT.search(slide.name):
            yield slide, slide.parent.relative_to(path)


def _listed(path: Path) -> Iterator[Path]:
    """The column `slide` of a CSV file, relative to the file's folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "slide" not in (rows.fieldnames or ()):
                raise RefusedError(f"{path}: a list of slides needs a column `slide`.")
            yield from (path.parent / row["slide"] for row in rows if row["slide"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RefusedError(f"{path}: not a readable list: {printable(str(error))}") from error


def _longer(source: Path, output: Path) -> Path:
    """The output's name with the suffix of its slide kept."""
    end = _RESULT.search(output.name)
    return output.with_name(source.name + (end.group() if end else ""))
