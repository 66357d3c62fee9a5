"""How the commands show things: lines, tables, sizes, times, progress bars.

Text from files goes through `inert`, so that its control characters have no effect.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from slidesr.errors import StoppedError, printable
from slidesr.runtime.paths import as_typed

if TYPE_CHECKING:
    from slidesr.pipeline.run import Progress as UpscaleProgress

console = Console(stderr=True)


def inert(text: object, style: str = "") -> Text:
    """Foreign text for rich: its control characters escaped, its markup mere brackets."""
    return Text(printable(str(text)), style)


def line(text: object, style: str = "") -> None:
    """One line on stderr, however long."""
    console.print(inert(text, style), soft_wrap=True)


def failure(message: str) -> None:
    """The line on stderr with which a command ends that did not succeed."""
    console.print(Text.assemble(("slidesr: ", "bold red"), inert(message)), soft_wrap=True)


class LineHandler(logging.Handler):
    """Shows each record as one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            line(f"{record.levelname.lower()}: {record.getMessage()}", "yellow")
        else:
            line(record.getMessage(), "dim")


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
    with _progress() as progress:
        progress.add_task(printable(title), total=total, note="")
        yield progress


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


class RunningBars:
    """One bar for each slide under way; a bar appears with the slide's first progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, tuple[TaskID, float]] = {}
        self._lock = Lock()

    def update(self, title: str, now: UpscaleProgress) -> None:
        """Moves the bar of a slide; any thread may call it."""
        with self._lock:
            if title not in self._tasks:
                task = self._progress.add_task(printable(title), total=1.0, note="")
                self._tasks[title] = task, time.monotonic()
            task, started = self._tasks[title]
        rate = (now.tissue_px - now.resumed_px) / 1e6 / max(1e-9, time.monotonic() - started)
        note = f"tissue {now.tissue_px / 1e6:.1f} of {now.total_tissue_px / 1e6:.1f} Mpx,"
        self._progress.update(task, completed=now.share, note=f"{note} {rate:.3f} Mpx/s")

    def end(self, title: str, why: str = "") -> None:
        """Removes the bar of a slide, and shows why it failed if it did."""
        with self._lock:
            task, _ = self._tasks.pop(title, (None, 0.0))
        if task is not None:
            self._progress.remove_task(task)
        if why:
            line(why, "yellow")


@contextmanager
def running_bars() -> Iterator[RunningBars]:
    """Bars on stderr for slides that are upscaled; nothing is drawn where it is no terminal."""
    with _progress() as progress:
        yield RunningBars(progress)


@contextmanager
def running_bar(title: str) -> Iterator[Callable[[UpscaleProgress], None]]:
    """The bar of one slide, as a callback for its progress."""
    with running_bars() as bars:
        yield lambda now: bars.update(title, now)


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """A callback for (done, total); its bar appears with the first call."""
    with ExitStack() as stack:
        bars: list[Progress] = []

        def report(done: int, of: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(title, of)))
            bars[0].update(bars[0].task_ids[0], completed=done)

        yield report


@contextmanager
def stoppable(how: str = "the same command resumes from here") -> Iterator[None]:
    """Turns an interrupt into one line that says how to resume the work."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"stopped; {how}") from None


class _Rate(ProgressColumn):
    """The task's own note: pixels done and pixels a second."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], style="cyan")
