"""Many slides, in turn or side by side: a failure stops no other, finished ones are skipped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slidesr import __version__
from slidesr.errors import BusyError, RefusedError, StoppedError, explained
from slidesr.model.model import Model
from slidesr.pipeline.executor import Runner
from slidesr.pipeline.find_slides import BatchItem
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import Progress, Summary
from slidesr.runtime.atomic_files import whole_file
from slidesr.runtime.names import check_name
from slidesr.runtime.sandbox import check_in_sandbox
from slidesr.slide import open_slide

_WORST_FIRST = (1, 2, 4, 3, 0)  # exit codes
_MOST_TOGETHER = 64  # slides that are open at once


@dataclass(frozen=True)
class SlideOutcome:
    """The outcome for one slide; `status`: done, resumed, filled, there, refused, busy, failed."""

    item: BatchItem
    status: str
    why: str = ""
    exit_code: int = 0
    summary: Summary | None = None


OnProgress = Callable[[BatchItem, Progress], None]


def upscale_all(
    items: Sequence[BatchItem], runner: Runner, on_progress: OnProgress = lambda item, now: None
) -> Generator[SlideOutcome, None, None]:
    """Runs slides in turn, or side by side on a cluster; yields outcomes as they come.

    Every failure but a stop becomes the outcome of its slide. From a cluster, `on_progress` is
    called in several threads.
    """
    model = runner.open_model()

    def work(item: BatchItem) -> SlideOutcome:
        return _outcome_or_failure(item, runner, model, partial(on_progress, item))

    if runner.cluster is None:
        yield from map(work, items)
        return
    together = min(_MOST_TOGETHER, max(2, runner.cluster.threads))
    yield from _side_by_side(items, work, runner.cluster.stop, together=together)


def _side_by_side(
    items: Iterable[BatchItem],
    work: Callable[[BatchItem], SlideOutcome],
    stop: Callable[[], None],
    *,
    together: int,
) -> Iterator[SlideOutcome]:
    """Runs `together` slides at a time; `stop` ends those under way."""
    with ThreadPoolExecutor(together) as pool:
        try:
            for done in as_completed([pool.submit(work, item) for item in items]):
                yield done.result()
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise


def worst(outcomes: Iterable[SlideOutcome]) -> int:
    """The exit code for all of them: failed before refused, busy, filled, and done."""
    return min((outcome.exit_code for outcome in outcomes), key=_WORST_FIRST.index, default=0)


def as_plain(outcomes: Sequence[SlideOutcome]) -> dict[str, Any]:
    """The outcomes as plain data for JSON; no dates, and no paths but those that were given."""
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
    """Writes the outcomes as JSON; replaces the file at `path` as a whole."""
    with whole_file(path) as file:
        file.write(json.dumps(as_plain(outcomes), indent=2, default=str).encode())


def _outcome_or_failure(
    item: BatchItem, runner: Runner, model: Model, on_progress: Callable[[Progress], None]
) -> SlideOutcome:
    try:
        return _outcome(item, runner, model, on_progress)
    except StoppedError:
        raise
    except Exception as error:  # no kind of broken slide may stop the others
        why, code = explained(error)
        status = {RefusedError.exit_code: "refused", BusyError.exit_code: "busy"}
        return SlideOutcome(item, status.get(code, "failed"), why, code)


def _outcome(
    item: BatchItem, runner: Runner, model: Model, on_progress: Callable[[Progress], None]
) -> SlideOutcome:
    options = runner.options
    check_name(item.output)
    if item.output.exists() and not options.overwrite:
        return _there(item, model)
    item.output.parent.mkdir(parents=True, exist_ok=True)
    check_in_sandbox(item.source)
    with prepared(item.source, item.output, options, model) as job:
        summary = runner.run(job, on_progress)
    if summary.filled_tiles:
        why = f"{len(summary.filled_tiles)} unreadable source tiles are background"
        return SlideOutcome(item, "filled", why, summary.exit_code, summary)
    return SlideOutcome(item, "resumed" if summary.resumed_px else "done", summary=summary)


def _there(item: BatchItem, model: Model) -> SlideOutcome:
    """The outcome of a slide whose output exists: skipped if this model made it, else refused."""
    with open_slide(item.output) as result:
        provenance = result.provenance
    if provenance.get("model_sha256") != model.sha256:
        by = provenance.get("model", "something else")
        raise RefusedError(f"{item.output}: exists already, made by {by}. Replace by --overwrite.")
    return SlideOutcome(item, "there", "done before")
