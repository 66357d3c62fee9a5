"""How many slides are run at the terminal: one after the other, with one table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from slidesr.cli.run import run_job
from slidesr.cli.show import as_json, inert, line, time_text
from slidesr.errors import RefusedError
from slidesr.printable import printable

if TYPE_CHECKING:
    from slidesr.upscale import Job, Options, Summary
    from slidesr.upscale.batch import Outcome

_STYLE = {"refused": "red", "failed": "red", "busy": "yellow", "filled": "yellow"}


def run_batch(inputs: Sequence[Path], folder: Path, options: Options, *, json_: bool) -> int:
    """Upscales all slides and folders of slides into a folder; the exit code of the worst.

    `summary.json` in that folder tells what became of each, after each.
    """
    from slidesr.upscale.batch import as_plain, find_items, upscale_all, worst, write_summary

    if folder.exists() and not folder.is_dir():
        raise RefusedError(f"{folder}: is a file. Many slides need a folder: give it with -o.")
    items = find_items(inputs, folder, options.scale)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []

    def run(job: Job) -> Summary:
        place = f"{len(outcomes) + 1} of {len(items)}: {job.slide.path.name}"
        line(place, "bold")
        return run_job(job)

    for outcome in upscale_all(items, options, run):
        outcomes.append(outcome)
        write_summary(folder / "summary.json", outcomes)
        if outcome.exit_code:
            line(outcome.why, _STYLE.get(outcome.status, ""))
    if json_:
        as_json(as_plain(outcomes))
    else:
        _show(outcomes)
        click.echo(printable(f"All of it is told in {folder / 'summary.json'}"))
    return worst(outcomes)


def _show(outcomes: Iterable[Outcome]) -> None:
    table = Table("slide", "", "time", "why", box=None)
    for outcome in outcomes:
        table.add_row(
            inert(outcome.item.source),
            inert(outcome.status, _STYLE.get(outcome.status, "green")),
            time_text(outcome.summary.seconds) if outcome.summary else "",
            inert(outcome.why),
        )
    Console().print(table)
