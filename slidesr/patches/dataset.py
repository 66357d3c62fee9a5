"""The folder of patches and its splits; files, and the patches of a slide, appear atomically.

FOLDER/patches.json                 the options, and the split of each slide
FOLDER/train/manifest.csv           the rows of all slides of train; likewise valid, test
FOLDER/train/SLIDE/patches.csv      the rows of one slide
FOLDER/train/SLIDE/SLIDE_X_Y.png    a patch, X and Y in level-0 pixels
FOLDER/unfinished/SLIDE/            the patches of an interrupted run, which resumes there
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from slidesr.errors import RefusedError
from slidesr.patches.options import SPLITS, PatchOptions
from slidesr.patches.sources import Material
from slidesr.runtime.atomic_files import locked_folder, whole_file
from slidesr.runtime.closeable import Closeable
from slidesr.runtime.dicom_folder import dicom_files
from slidesr.runtime.names import check_name

_RECORD, _ROWS, _MANIFEST = "patches.json", "patches.csv", "manifest.csv"
_PLACE = "_16777216_16777216.png"  # the longest ending of a patch's name


@dataclass(frozen=True)
class PatchRow:
    """A row of the manifest. `file` is relative to the folder of the split."""

    file: str
    dataset: str
    licence: str
    slide: str
    x: int  # level-0 pixels, like y
    y: int
    level: int  # the level that was read
    mpp: str  # of the patch; empty if unknown
    label: str
    width: int
    height: int
    sha256: str  # of the file


class PatchFolder(Closeable):
    """The patches of one set of options; locked against other processes while open."""

    def __init__(self, path: Path, options: PatchOptions) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path, self._options = path, options
        self._lock = locked_folder(path)
        with ExitStack() as undo:
            undo.callback(self.close)
            self._slides = _known_slides(path, _plain(options))
            undo.pop_all()

    def close(self) -> None:
        os.close(self._lock)

    def take(self, material: Iterable[Material]) -> None:
        """Assigns each slide to a split, permanently; refuses a slide that has changed."""
        for item in material:
            self._check_name(item)
            identity = _identity(item)
            known = self._slides.setdefault(item.name, identity)
            if not identity.items() <= known.items():
                raise RefusedError(
                    f"{item.slide}: the slide or its annotation has changed since"
                    f" {self._path} was started. Give another folder."
                )
        strata: list[list[str]] = [[], []]
        for name, known in sorted(self._slides.items()):
            strata[bool(known["annotation"])].append(name)
        fixed = {name: known["split"] for name, known in self._slides.items() if "split" in known}
        for name, split in split_slides(strata, self._options, fixed).items():
            self._slides[name]["split"] = split
        record = {"options": _plain(self._options), "slides": self._slides}
        text = json.dumps(record, indent=1, sort_keys=True)
        _write_whole(self._path / _RECORD, [text.encode()])

    def is_finished(self, name: str) -> bool:
        return self._finished(name).is_dir()

    def patch(self, name: str, file: str) -> bytes | None:
        """A stored patch of an unfinished slide, or None."""
        path = self._unfinished(name) / file
        return path.read_bytes() if path.exists() else None

    def add(self, name: str, file: str, data: bytes) -> None:
        """Stores a patch of an unfinished slide."""
        self._unfinished(name).mkdir(parents=True, exist_ok=True)
        _write_whole(self._unfinished(name) / file, [data])

    def add_partner(self, name: str, file: str, data: bytes) -> None:
        """Stores the same place at the coarser level, for training on true pairs."""
        self.add(self._partner(name), file, data)

    def finish(self, name: str, rows: Sequence[PatchRow]) -> None:
        """Publishes all patches of a slide with their rows, the coarser ones first."""
        self.add(name, _ROWS, _csv(rows))
        if self._unfinished(self._partner(name)).is_dir():
            home = self._finished(name)
            coarser = home.parent.with_name(f"{home.parent.name}.x{self._options.pairs}")
            coarser.mkdir(exist_ok=True)
            self._unfinished(self._partner(name)).rename(coarser / name)
        self._finished(name).parent.mkdir(exist_ok=True)
        self._unfinished(name).rename(self._finished(name))
        with suppress(OSError):  # another slide is unfinished
            self._unfinished(name).parent.rmdir()

    def write_manifests(self) -> None:
        """Writes the manifest of each split from the rows of all finished slides."""
        head = _csv([])
        for split in SPLITS:
            parts = sorted((self._path / split).glob(f"*/{_ROWS}"))
            if parts:
                rows = (part.read_bytes().removeprefix(head) for part in parts)
                _write_whole(self._path / split / _MANIFEST, chain([head], rows))

    def rows(self, split: str) -> Iterator[dict[str, str]]:
        """The manifest of a split, row by row."""
        path = self._path / split / _MANIFEST
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)

    def _check_name(self, item: Material) -> None:
        try:
            check_name(self._path / f"{item.name}{_PLACE}")
        except RefusedError as error:
            raise RefusedError(
                f"{item.slide}: its name is too long: patches are called NAME_X_Y.png. Give it a"
                " shorter one."
            ) from error

    def _partner(self, name: str) -> str:
        return f"{name}.x{self._options.pairs}"

    def _finished(self, name: str) -> Path:
        split: str = self._slides[name]["split"]
        return self._path / split / name

    def _unfinished(self, name: str) -> Path:
        return self._path / "unfinished" / name


def split_slides(
    strata: Sequence[Collection[str]], options: PatchOptions, fixed: Mapping[str, str]
) -> dict[str, str]:
    """The split of each slide; the strata are sets of slide names.

    It depends on the name and the seed alone, so it does not change when slides are added. But a
    split with a share that would get no slide of a stratum takes one from another split: train and
    valid from strata of two or more slides, test from three. Of any two slides at all, train and
    valid get one each. Slides in `fixed` never move.
    """
    places = {
        name: fixed.get(name) or _drawn(name, options) for stratum in strata for name in stratum
    }
    movable = {name: options.number(name) for name in places if name not in fixed}
    wanted = [split for split, share in zip(SPLITS, options.split, strict=True) if share]
    for group, splits in [*((stratum, wanted) for stratum in strata), (list(places), wanted[:2])]:
        for split in splits:
            _fill(split, places, group, movable)
    return places


def _known_slides(path: Path, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The slides in patches.json; RefusedError if it was written with other options."""
    record = path / _RECORD
    if not record.exists():
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RefusedError(f"{path}: contains other files. Give a new or empty folder.")
        return {}
    try:
        known = json.loads(record.read_bytes())
        slides: dict[str, dict[str, Any]] = known["slides"]
        before: dict[str, Any] = known["options"]
    except (ValueError, LookupError, TypeError) as error:
        raise RefusedError(f"{record}: broken ({error}). Give another folder.") from error
    other = [name for name in options if before.get(name) != options[name]]
    if other:
        name = other[0]
        raise RefusedError(
            f"{path}: was started with {name} {before.get(name)}, not {options[name]}."
            " Give the same options, or another folder."
        )
    return slides


def _plain(options: PatchOptions) -> dict[str, Any]:
    """The options as JSON returns them."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return plain


def _identity(item: Material) -> dict[str, Any]:
    """Identifies a slide of this name without reading all of it."""
    files = dicom_files(item.slide) if item.slide.is_dir() else [item.slide]
    annotation = item.annotation.read_bytes() if item.annotation else None
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "annotation": hashlib.sha256(annotation).hexdigest() if annotation is not None else "",
    }


def _csv(rows: Iterable[PatchRow]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(PatchRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue().encode()


def _write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    with whole_file(path) as file:
        file.writelines(chunks)


def _drawn(name: str, options: PatchOptions) -> str:
    at = options.number(name) / 2**64
    ends = zip(SPLITS, accumulate(options.split), options.split, strict=True)
    inside = [split for split, end, share in ends if share and at < end]
    return inside[0] if inside else SPLITS[0]


def _fill(
    split: str, places: dict[str, str], group: Collection[str], movable: Mapping[str, int]
) -> None:
    """Moves a slide of the group into an empty split, if another split can spare one."""
    members = {s: [name for name in group if places[name] == s] for s in SPLITS}
    if members[split]:
        return
    last = SPLITS.index(split)
    spare = [
        [name for name in names if name in movable]
        for s, names in members.items()
        if len(names) > 1 or SPLITS.index(s) > last
    ]
    givers = max(spare, key=len, default=[])
    if givers:
        places[max(givers, key=movable.__getitem__)] = split
