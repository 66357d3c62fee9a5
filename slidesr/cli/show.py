"""How the commands show things: lines, tables, sizes, times, and the progress bar of a run.

Names and words of files go through `inert`: they are shown, never obeyed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from slidesr.errors import StoppedError, printable
from slidesr.runtime.paths import as_typed

console = Console(stderr=True)


def inert(text: object, style: str = "") -> Text:
    """Foreign text for rich: its control characters escaped, its markup mere brackets."""
    return Text(printable(str(text)), style)


def line(text: object, style: str = "") -> None:
    """One line on stderr, however long."""
    console.print(inert(text, style), soft_wrap=True)


class LineHandler(logging.Handler):
    """Shows each record as one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        line(f"{record.levelname.lower()}: {record.getMessage()}", "yellow")


def bytes_text(count: float) -> str:
    """Decimal units, as disks and file managers count.

    >>> bytes_text(1_540_000)
    '1.5 MB'
    """
    power = min(4, int(math.log10(max(1, count))) // 3)
    unit = ("B", "kB", "MB", "GB", "TB")[power]
    return f"{count / 1000**power:.{1 if power else 0}f} {unit}"


def time_text(seconds: float) -> str:
    """
    >>> time_text(4000), time_text(75), time_text(2.34)
    ('1 h 06 min', '1 min 15 s', '2.3 s')
    """
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds:.1f} s"


def facts(title: str, rows: Mapping[str, object]) -> None:
    """A table of two columns on stdout; text from files is never read as markup."""
    table = Table(
        title=inert(title), title_justify="left", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, inert(value))
    Console(soft_wrap=True).print(table)


def as_json(value: Any) -> None:
    """A dataclass or plain data as JSON on stdout."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    click.echo(json.dumps(plain, indent=2, default=_plain))


def _plain(value: object) -> object:
    return as_typed(value) if isinstance(value, Path) else repr(value)


@contextmanager
def progress_bar(title: str, total: float) -> Iterator[Progress]:
    """A bar on stderr for one task; advance it by `progress.update(progress.task_ids[0], ...)`.

    Where stderr is no terminal nothing is drawn.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(printable(title), total=total, note="")
        yield progress


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """What takes "so many are done, of so many"; its bar is not there before the first call."""
    with ExitStack() as stack:
        bars: list[Progress] = []

        def report(done: int, of: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(title, of)))
            bars[0].update(bars[0].task_ids[0], completed=done)

        yield report


@contextmanager
def stoppable(how: str = "the same command goes on from here") -> Iterator[None]:
    """Work that goes on another time: an interrupt inside becomes one line that says how."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"stopped; {how}") from None


class _Rate(ProgressColumn):
    """What the task's own note says: pixels done and pixels a second."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], style="cyan")
