"""What a comparison leaves: JSON for programs, CSV for spreadsheets, Markdown and HTML for people.

OUTPUT/results.json   everything
OUTPUT/scores.csv     a line for each image, scale and method
OUTPUT/summary.csv    means with their intervals and tests
OUTPUT/tables.md      a table for each scale
OUTPUT/report.html    all of it to read, with pictures
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from slidesr.benchmark.report import Case, write_report
from slidesr.benchmark.results import Results, Row
from slidesr.benchmark.suite import means
from slidesr.card import score_table
from slidesr.durable import whole_file
from slidesr.errors import RefusedError

_RESULTS = "results.json"


def refuse_other_results(output: Path, protocol: Mapping[str, object]) -> None:
    """RefusedError where the results of another comparison stand."""
    path = output / _RESULTS
    if path.exists() and Results.read(path).protocol != protocol:
        raise RefusedError(
            f"{path}: the results of another comparison. Give another -o, or --overwrite."
        )


def write_results(output: Path, results: Results, cases: Sequence[Case]) -> None:
    """Writes all files; results.json is last, so where it is the others are its."""
    texts = {
        "scores.csv": scores_csv(results),
        "summary.csv": summary_csv(results),
        "tables.md": markdown(results) + "\n",
    }
    write_report(output / "report.html", results, cases)
    for name, text in {**texts, _RESULTS: results.to_json()}.items():
        with whole_file(output / name) as file:
            file.write(text.encode())


def markdown(results: Results) -> str:
    """A table for each scale, the best of each column bold."""
    return "\n\n".join(
        f"## x{scale}\n\n"
        + score_table(means([row for row in results.summary if row.scale == scale]))
        for scale in results.scores
    )


def summary_csv(results: Results) -> str:
    """All rows of the summary."""
    return _csv([field.name for field in fields(Row)], map(asdict, results.summary))


def scores_csv(results: Results) -> str:
    """A line for each image, scale and method, a column for each metric."""
    lines = []
    for scale, by_method in results.scores.items():
        for method, by_metric in by_method.items():
            for index, subject in enumerate(results.subjects):
                numbers = {name: values[index] for name, values in by_metric.items()}
                lines.append({"scale": scale, "method": method, **asdict(subject), **numbers})
    return _csv(list(lines[0]), lines)


def _csv(names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
