"""Many slides, one after the other: none stops the others, and what is done is not done again."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slidesr import __version__
from slidesr.durable import whole_file
from slidesr.errors import BusyError, RefusedError, StoppedError, explained
from slidesr.model import Model
from slidesr.slide import is_store, open_slide
from slidesr.trial import try_slide
from slidesr.upscale.job import Job, default_output, open_model, prepared
from slidesr.upscale.options import Options
from slidesr.upscale.run import Summary

_SLIDES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn"),
    *(".mrxs", ".svslide", ".bif", ".dcm", ".zarr", ".zarr.zip"),
)
_RESULT = re.compile(r"\.x(2|4|8|16)\.ome\.(tif|zarr)$")
_WORST_FIRST = (1, 2, 4, 3, 0)  # exit codes


@dataclass(frozen=True)
class Item:
    """A slide and where its result goes."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a slide: done, resumed, filled, there, refused, busy or failed."""

    item: Item
    status: str
    why: str = ""
    exit_code: int = 0
    summary: Summary | None = None


def find_items(inputs: Sequence[Path], folder: Path, scale: int) -> list[Item]:
    """The slides that are named, and those in the folders that are named, with their outputs.

    A folder's own folders are made anew in `folder`. Results of slidesr and hidden files inside
    folders are left out; of DICOM files, which are many to a slide, the first of each folder is
    taken. Where two results would have one name, theirs keep the suffix of the slide.

    Raises RefusedError where there is none, or where two would still be one.
    """
    found = dict(found for path in inputs for found in _slides(path))
    if not found:
        raise RefusedError(f"{', '.join(map(str, inputs))}: no slides here")
    plain = {path: default_output(path, scale, folder / to) for path, to in found.items()}
    often = Counter(plain.values())
    items = [
        Item(path, output if often[output] == 1 else _longer(path, output))
        for path, output in plain.items()
    ]
    twice = [
        output for output, count in Counter(item.output for item in items).items() if count > 1
    ]
    if twice:
        raise RefusedError(f"{twice[0]}: two slides have this name. Give one at a time, with -o.")
    return items


def upscale_all(
    items: Iterable[Item], options: Options, run: Callable[[Job], Summary]
) -> Iterator[Outcome]:
    """Runs each job by `run`; every failure but a stop becomes the slide's own outcome."""
    model = open_model(options)
    for item in items:
        try:
            yield _outcome(item, options, model, run)
        except StoppedError:
            raise
        except Exception as error:  # a slide of a kind that nobody thought of stops no other
            why, code = explained(error)
            status = {RefusedError.exit_code: "refused", BusyError.exit_code: "busy"}
            yield Outcome(item, status.get(code, "failed"), why, code)


def worst(outcomes: Iterable[Outcome]) -> int:
    """The exit code of them all: failed before refused, busy, filled, and done."""
    return min((outcome.exit_code for outcome in outcomes), key=_WORST_FIRST.index, default=0)


def as_plain(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes as data for JSON, without dates, and without paths but those that were given."""
    return {
        "slidesr": __version__,
        "exit_code": worst(outcomes),
        "count": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "slides": [
            {
                "input": str(outcome.item.source),
                "output": str(outcome.item.output),
                "status": outcome.status,
                "why": outcome.why,
                "summary": asdict(outcome.summary) if outcome.summary else None,
            }
            for outcome in outcomes
        ],
    }


def write_summary(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Replaces the file at `path` as a whole."""
    with whole_file(path) as file:
        file.write(json.dumps(as_plain(outcomes), indent=2, default=str).encode())


def _outcome(item: Item, options: Options, model: Model, run: Callable[[Job], Summary]) -> Outcome:
    if item.output.exists() and not options.overwrite:
        return _there(item, model)
    item.output.parent.mkdir(parents=True, exist_ok=True)
    try_slide(item.source)
    with prepared(item.source, item.output, options, model) as job:
        summary = run(job)
    if summary.filled_tiles:
        why = f"{len(summary.filled_tiles)} unreadable source tiles are background"
        return Outcome(item, "filled", why, 3, summary)
    return Outcome(item, "resumed" if summary.resumed_px else "done", summary=summary)


def _there(item: Item, model: Model) -> Outcome:
    """An output that exists is done if it is of this model."""
    with open_slide(item.output) as made:
        told = made.provenance
    if told.get("model_sha256") != model.sha256:
        by = told.get("model", "something else")
        raise RefusedError(f"{item.output}: exists already, made by {by}. Replace by --overwrite.")
    return Outcome(item, "there", "done before")


def _slides(path: Path) -> Iterator[tuple[Path, Path]]:
    """A slide, or all of a folder, each with its folder as seen from there."""
    if not path.is_dir() or is_store(path):
        yield path, Path()
        return
    for name, folders, files in os.walk(path):
        here = Path(name)
        names = sorted(n for n in (*files, *folders) if n.lower().endswith(_SLIDES))
        folders[:] = sorted(f for f in folders if f not in names and not f.startswith("."))
        dicom = [n for n in names if n.lower().endswith(".dcm")]
        for each in names:
            if not (each.startswith(".") or _RESULT.search(each) or each in dicom[1:]):
                yield here / each, here.relative_to(path)


def _longer(source: Path, output: Path) -> Path:
    """The output's name with the suffix of its slide."""
    end = _RESULT.search(output.name)
    return output.with_name(source.name + (end.group() if end else ""))
