"""Many slides, in turn or side by side: none stops the others, what is done is not done again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slidesr import __version__
from slidesr.errors import BusyError, RefusedError, StoppedError, explained
from slidesr.model.model import Model
from slidesr.pipeline.find_slides import BatchItem
from slidesr.pipeline.job import Job, prepared
from slidesr.pipeline.options import Options
from slidesr.pipeline.run import Summary
from slidesr.runtime.atomic_files import whole_file
from slidesr.runtime.sandbox import check_in_sandbox
from slidesr.slide import open_slide

_WORST_FIRST = (1, 2, 4, 3, 0)  # exit codes


@dataclass(frozen=True)
class SlideOutcome:
    """What became of a slide: done, resumed, filled, there, refused, busy or failed."""

    item: BatchItem
    status: str
    why: str = ""
    exit_code: int = 0
    summary: Summary | None = None


def outcome_of(
    item: BatchItem, options: Options, model: Model, run: Callable[[Job], Summary]
) -> SlideOutcome:
    """Runs an item's job by `run`; every failure but a stop becomes its outcome."""
    try:
        return _outcome(item, options, model, run)
    except StoppedError:
        raise
    except Exception as error:  # a slide of a kind that nobody thought of stops no other
        why, code = explained(error)
        status = {RefusedError.exit_code: "refused", BusyError.exit_code: "busy"}
        return SlideOutcome(item, status.get(code, "failed"), why, code)


def side_by_side(
    items: Iterable[BatchItem],
    work: Callable[[BatchItem], SlideOutcome],
    stop: Callable[[], None],
    *,
    together: int,
) -> Iterator[SlideOutcome]:
    """Outcomes as they come, of so many slides at a time; `stop` ends those that run."""
    with ThreadPoolExecutor(together) as pool:
        try:
            for done in as_completed([pool.submit(work, item) for item in items]):
                yield done.result()
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise


def worst(outcomes: Iterable[SlideOutcome]) -> int:
    """The exit code of them all: failed before refused, busy, filled, and done."""
    return min((outcome.exit_code for outcome in outcomes), key=_WORST_FIRST.index, default=0)


def as_plain(outcomes: Sequence[SlideOutcome]) -> dict[str, Any]:
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


def write_summary(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """Replaces the file at `path` as a whole."""
    with whole_file(path) as file:
        file.write(json.dumps(as_plain(outcomes), indent=2, default=str).encode())


def _outcome(
    item: BatchItem, options: Options, model: Model, run: Callable[[Job], Summary]
) -> SlideOutcome:
    if item.output.exists() and not options.overwrite:
        return _there(item, model)
    item.output.parent.mkdir(parents=True, exist_ok=True)
    check_in_sandbox(item.source)
    with prepared(item.source, item.output, options, model) as job:
        summary = run(job)
    if summary.filled_tiles:
        why = f"{len(summary.filled_tiles)} unreadable source tiles are background"
        return SlideOutcome(item, "filled", why, summary.exit_code, summary)
    return SlideOutcome(item, "resumed" if summary.resumed_px else "done", summary=summary)


def _there(item: BatchItem, model: Model) -> SlideOutcome:
    """An output that exists is done if it is of this model."""
    with open_slide(item.output) as made:
        told = made.provenance
    if told.get("model_sha256") != model.sha256:
        by = told.get("model", "something else")
        raise RefusedError(f"{item.output}: exists already, made by {by}. Replace by --overwrite.")
    return SlideOutcome(item, "there", "done before")
