"""How many slides are run at the terminal: in turn or side by side, with one table at the end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from slidesr.cli.run import run_job
from slidesr.cli.show import as_json, inert, line, progress_bar, stoppable, time_text
from slidesr.errors import RefusedError, printable
from slidesr.runtime.paths import as_typed, is_remote

if TYPE_CHECKING:
    from slidesr.pipeline.batch import SlideOutcome
    from slidesr.pipeline.dask_cluster.cluster import Cluster
    from slidesr.pipeline.executor import Workers
    from slidesr.pipeline.find_slides import BatchItem
    from slidesr.pipeline.job import Job
    from slidesr.pipeline.run import Summary

_MOST_TOGETHER = 64  # slides that are open at once
_STYLE = {"refused": "red", "failed": "red", "busy": "yellow", "filled": "yellow"}


def run_batch(inputs: Sequence[Path], folder: Path, workers: Workers, *, json_: bool) -> int:
    """Upscales all slides, folders and lists of slides into a folder; the exit code of the worst.

    `summary.json` in that folder tells what became of each, after each.
    """
    from slidesr.pipeline.batch import as_plain, worst, write_summary
    from slidesr.pipeline.find_slides import find_items

    if is_remote(folder):
        raise RefusedError(
            f"{as_typed(folder)}: many slides go into a folder here. Behind a URL give one at a"
            " time, as an .ome.zarr."
        )
    if folder.exists() and not folder.is_dir():
        raise RefusedError(f"{folder}: is a file. Many slides need a folder: give it with -o.")
    items = find_items(inputs, folder, workers.options.scale)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[SlideOutcome] = []
    place = {item: number for number, item in enumerate(items)}
    with closing(_outcomes(items, workers)) as coming:
        for outcome in coming:
            outcomes.append(outcome)
            outcomes.sort(key=lambda each: place[each.item])
            write_summary(folder / "summary.json", outcomes)
            if outcome.exit_code:
                line(outcome.why, _STYLE.get(outcome.status, ""))
    if json_:
        as_json(as_plain(outcomes))
    else:
        _show(outcomes)
        click.echo(printable(f"All of it is told in {folder / 'summary.json'}"))
    return worst(outcomes)


def _outcomes(items: list[BatchItem], workers: Workers) -> Generator[SlideOutcome, None, None]:
    """One slide after the other here; side by side on a cluster."""
    from slidesr.pipeline.batch import outcome_of, side_by_side

    model = workers.open_model()
    if workers.cluster is None:
        for number, item in enumerate(items, 1):
            place = f"{number} of {len(items)}: {item.source.name}"
            yield outcome_of(item, workers.options, model, partial(_run_alone, place))
        return
    cluster = workers.cluster
    with progress_bar(f"{len(items)} slides", len(items)) as bar, stoppable():

        def work(item: BatchItem) -> SlideOutcome:
            outcome = outcome_of(item, workers.options, model, partial(_run_beside, cluster))
            bar.update(bar.task_ids[0], advance=1)
            return outcome

        together = min(_MOST_TOGETHER, max(2, cluster.threads))
        yield from side_by_side(items, work, cluster.stop, together=together)


def _run_alone(place: str, job: Job) -> Summary:
    line(place, "bold")
    return run_job(job)


def _run_beside(cluster: Cluster, job: Job) -> Summary:
    from slidesr.pipeline.run import upscale

    return upscale(job, make=cluster.make)


def _show(outcomes: Iterable[SlideOutcome]) -> None:
    table = Table("slide", "", "time", "why", box=None)
    for outcome in outcomes:
        table.add_row(
            inert(outcome.item.source),
            inert(outcome.status, _STYLE.get(outcome.status, "green")),
            time_text(outcome.summary.seconds) if outcome.summary else "",
            inert(outcome.why),
        )
    Console().print(table)
