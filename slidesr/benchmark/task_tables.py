"""Tables of the downstream tasks, for the report and for tables.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from slidesr.benchmark.judges.nuclei import SIZES
from slidesr.benchmark.results import TaskRow

_NUCLEI = {  # metric -> heading
    "in_high": "in high resolution",
    "found": "found",
    "precision": "precision",
    "recall": "recall",
    "kept_per_mm2": "kept per mm2",
    "invented_per_mm2": "invented per mm2",
    "lost_per_mm2": "lost per mm2",
    "merged_per_mm2": "merged per mm2",
    "split_per_mm2": "split per mm2",
    "area_change": "change in area",
}
_BY_SIZE = ("invented_per_mm2", "lost_per_mm2", "area_change")
_CLASSIFIER = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "agreement": "agreement",
    "shift": "shift",
}

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class TaskCell:
    """A figure as text; `interval` and `seeds` (its spread over seeds) are empty if unknown."""

    value: str
    interval: str
    seeds: str


@dataclass(frozen=True)
class TaskTable:
    """One line per method."""

    caption: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, tuple[TaskCell, ...]], ...]


def nuclei_tables(rows: Sequence[TaskRow]) -> list[TaskTable]:
    """Two tables per scale and data set: nuclei of all sizes, and by size."""
    tables = []
    for (scale, data), chosen in _by(rows, lambda row: (row.scale, row.data)).items():
        caption = f"x{scale}, {data}, {_units(chosen[0])}"
        columns = {("all", metric): head for metric, head in _NUCLEI.items()}
        tables.append(_table(caption, columns, chosen))
        columns = {
            (size, metric): f"{_NUCLEI[metric]}, {size}" for metric in _BY_SIZE for size in SIZES
        }
        tables.append(_table(f"{caption}: {_size_text()}", columns, chosen))
    return tables


def classifier_tables(rows: Sequence[TaskRow]) -> list[TaskTable]:
    """One table per scale, data set and task."""
    tables = []
    groups = _by(rows, lambda row: (row.scale, row.data, row.part))
    for (scale, data, task), chosen in groups.items():
        columns = {(task, metric): head for metric, head in _CLASSIFIER.items()}
        tables.append(_table(f"x{scale}, {data}, {task}, {_units(chosen[0])}", columns, chosen))
    return tables


def markdown_table(table: TaskTable) -> str:
    """Formats a table in Markdown, under its caption."""
    lines = [f"| method | {' | '.join(table.heads)} |", f"|---|{'---|' * len(table.heads)}"]
    for method, cells in table.lines:
        texts = [" ".join(filter(None, (cell.value, _bracketed(cell)))) for cell in cells]
        lines.append(f"| {method} | {' | '.join(texts)} |")
    return f"{table.caption}\n\n" + "\n".join(lines)


def _bracketed(cell: TaskCell) -> str:
    inside = "; ".join(filter(None, (cell.interval, cell.seeds)))
    return f"({inside})" if inside else ""


def _by(rows: Sequence[TaskRow], key: Callable[[TaskRow], _Key]) -> dict[_Key, list[TaskRow]]:
    groups: dict[_Key, list[TaskRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _table(
    caption: str, columns: Mapping[tuple[str, str], str], rows: Sequence[TaskRow]
) -> TaskTable:
    """Builds the table with these columns, (part, metric) -> heading."""
    lines = []
    for method, of_method in groupby(rows, lambda row: row.method):
        found = {(row.part, row.metric): row for row in of_method}
        lines.append((method, tuple(_cell(found[column]) for column in columns)))
    return TaskTable(caption, tuple(columns.values()), tuple(lines))


def _units(row: TaskRow) -> str:
    drawn = f" of {row.units} slides" if row.unit == "slide" else ""
    return f"{row.n} images{drawn}, intervals over {row.unit}s"


def _size_text() -> str:
    """
    >>> _size_text()
    'small below 50 um2, medium below 100 um2, large above'
    """
    *bounded, last = SIZES
    return ", ".join(f"{name} below {SIZES[name]:.0f} um2" for name in bounded) + f", {last} above"


def _cell(row: TaskRow) -> TaskCell:
    text = _text_of(row)
    return TaskCell(
        "unknown" if row.value is None else text(row.value),
        "" if row.low is None or row.high is None else f"{text(row.low)} to {text(row.high)}",
        "" if row.seed_sd is None else f"seeds ±{text(row.seed_sd)}",
    )


def _text_of(row: TaskRow) -> Callable[[float], str]:
    if row.metric.endswith("_per_mm2") or row.metric in ("in_high", "found"):
        return "{:.0f}".format
    if row.metric == "area_change":
        return "{:+.1%}".format
    return "{:.3f}".format
