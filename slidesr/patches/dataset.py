"""The folder of patches: a slide's patches appear together, and every file appears whole.

FOLDER/patches.json                 the options, and the split of each slide
FOLDER/train/manifest.csv           the rows of all slides of train; likewise valid, test
FOLDER/train/SLIDE/patches.csv      the rows of one slide
FOLDER/train/SLIDE/SLIDE_X_Y.png    a patch, X and Y in level-0 pixels
FOLDER/unfinished/SLIDE/            what an interrupted run goes on from
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

_RECORD, _ROWS, _MANIFEST = "patches.json", "patches.csv", "manifest.csv"


@dataclass(frozen=True)
class PatchRow:
    """What the manifest says of a patch. `file` is as seen from the split's folder."""

    file: str
    dataset: str
    licence: str
    slide: str
    x: int  # level-0 pixels, as y
    y: int
    level: int  # the level that was read
    mpp: str  # the patch's own; empty where the slide does not say
    label: str
    width: int
    height: int
    sha256: str  # of the file


class PatchFolder(Closeable):
    """Holds the patches of one set of options; locked against other processes while open."""

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
        """Gives each slide its split, for good; refuses a slide that is not what it was."""
        for item in material:
            identity = _identity(item)
            known = self._slides.setdefault(item.name, identity)
            if not identity.items() <= known.items():
                raise RefusedError(
                    f"{item.slide}: the slide or its annotation is not what it was when"
                    f" {self._path} was begun. Give another folder."
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
        return self._home(name).is_dir()

    def patch(self, name: str, file: str) -> bytes | None:
        """A patch of an unfinished slide, if it is there already."""
        path = self._workshop(name) / file
        return path.read_bytes() if path.exists() else None

    def add(self, name: str, file: str, data: bytes) -> None:
        """Keeps a patch of an unfinished slide."""
        self._workshop(name).mkdir(parents=True, exist_ok=True)
        _write_whole(self._workshop(name) / file, [data])

    def add_partner(self, name: str, file: str, data: bytes) -> None:
        """Keeps the same place at the coarser level, for training on true pairs."""
        self.add(self._partner(name), file, data)

    def finish(self, name: str, rows: Sequence[PatchRow]) -> None:
        """Publishes all patches of a slide with their rows, the coarser ones first."""
        self.add(name, _ROWS, _csv(rows))
        if self._workshop(self._partner(name)).is_dir():
            home = self._home(name)
            coarser = home.parent.with_name(f"{home.parent.name}.x{self._options.pairs}")
            coarser.mkdir(exist_ok=True)
            self._workshop(self._partner(name)).rename(coarser / name)
        self._home(name).parent.mkdir(exist_ok=True)
        self._workshop(name).rename(self._home(name))
        with suppress(OSError):  # another slide is unfinished
            self._workshop(name).parent.rmdir()

    def write_manifests(self) -> None:
        """Puts the rows of all finished slides together, split by split."""
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

    def _partner(self, name: str) -> str:
        return f"{name}.x{self._options.pairs}"

    def _home(self, name: str) -> Path:
        split: str = self._slides[name]["split"]
        return self._path / split / name

    def _workshop(self, name: str) -> Path:
        return self._path / "unfinished" / name


def _known_slides(path: Path, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What patches.json says of the slides; RefusedError where it was made by other options."""
    record = path / _RECORD
    if not record.exists():
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RefusedError(f"{path}: holds something else. Give a new or empty folder.")
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
            f"{path}: was begun with {name} {before.get(name)}, not {options[name]}."
            " Give the same options, or another folder."
        )
    return slides


def _plain(options: PatchOptions) -> dict[str, Any]:
    """The options as they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return plain


def _identity(item: Material) -> dict[str, Any]:
    """What tells that a slide of this name is the same one, without reading all of it."""
    drawn = item.annotation.read_bytes() if item.annotation else None
    return {
        "bytes": item.slide.stat().st_size,
        "annotation": hashlib.sha256(drawn).hexdigest() if drawn is not None else "",
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


def split_slides(
    strata: Sequence[Collection[str]], options: PatchOptions, fixed: Mapping[str, str]
) -> dict[str, str]:
    """The split of each slide of the strata, which are sets of names.

    It follows from the name and the seed alone, so it stays when slides are added; but where a
    split that has a share would get none of a stratum, it takes a slide from another split: train
    and valid of two slides and more, test of three. Train and valid also get one each of any two
    slides at all. Slides in `fixed` never move.
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


def _drawn(name: str, options: PatchOptions) -> str:
    at = options.number(name) / 2**64
    ends = zip(SPLITS, accumulate(options.split), options.split, strict=True)
    inside = [split for split, end, share in ends if share and at < end]
    return inside[0] if inside else SPLITS[0]


def _fill(
    split: str, places: dict[str, str], group: Collection[str], movable: Mapping[str, int]
) -> None:
    """Moves a slide of the group into a split that is empty, if another one can spare it."""
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
