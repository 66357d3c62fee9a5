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
from dataclasses import asdict, fields, replace
from pathlib import Path

from slidesr.benchmark.report import Case, write_report
from slidesr.benchmark.results import Results, ScoreRow
from slidesr.benchmark.suite import means
from slidesr.errors import RefusedError
from slidesr.model.card import score_table, write_model
from slidesr.model.weights import ModelSpec, list_models, read_model
from slidesr.runtime.atomic_files import whole_file

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
    return _csv([field.name for field in fields(ScoreRow)], map(asdict, results.summary))


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


_BESIDE = ("bicubic", "bicubic + back-projection")
_BEGIN, _END = "<!-- slidesr benchmark -->\n", "<!-- end -->\n"
_INTRO = """# Shipped weights

Each file is a safetensors with everything about it in its header; the card beside it says the same
in words. `slidesr models` lists them. _MeanScores: antialiased bicubic protocol, RGB, mean over the
images of slides that no model was trained on; distance and FID are those of the histology encoder,
less is better. Made by `slidesr benchmark DATA --scales 2,4,8,16 --update-cards`.
"""

_MeanScores = dict[str, dict[str, dict[str, float]]]  # data set -> method -> metric -> mean


def update_cards(results: Results, folder: Path, readme: Path) -> None:
    """Puts the scores into the headers and cards in `folder`, its README.md and the project's.

    A card shows its model beside bicubic, back-projection and the fidelity weights it comes from.
    Never a weight changes. RefusedError where the comparison is not of all shipped models by the
    bicubic protocol.
    """
    by_scale = {
        scale: means([row for row in results.summary if row.scale == scale])
        for scale in results.scores
    }
    specs = [spec for _, spec in list_models()]
    protocol = results.protocol
    compared = {name for methods in results.methods.values() for name in methods}
    if {spec.name for spec in specs} - compared or (
        protocol["degradation"],
        protocol["jpeg_quality"],
    ) != ("bicubic", None):
        raise RefusedError("cards show all shipped models, at all scales, by the bicubic protocol")
    for spec in specs:
        _update_card(folder, spec, by_scale[spec.generator.scale])
    sections = (f"\n## x{scale}\n\n{score_table(table)}\n" for scale, table in by_scale.items())
    (folder / "README.md").write_text(_INTRO + "".join(sections))
    _update_readme(readme, by_scale)


def _update_card(folder: Path, spec: ModelSpec, scores: _MeanScores) -> None:
    shown = (*_BESIDE, f"{spec.name}-fidelity", spec.name)
    own = {
        data: {name: by_method[name] for name in sorted(shown) if name in by_method}
        for data, by_method in scores.items()
    }
    _, generator = read_model(folder / f"{spec.name}.safetensors")
    write_model(folder, replace(spec, scores=own), own, generator)


def _update_readme(readme: Path, by_scale: dict[int, _MeanScores]) -> None:
    """Between the two marks: the first data set's means, of what a user would choose."""
    table = {}
    for scale, scores in by_scale.items():
        by_method = next(iter(scores.values()))
        ours = (f"wa-srgan-x{scale}-fidelity", f"wa-srgan-x{scale}")
        linked = {f"[{name}](models/{name}.md)": by_method[name] for name in ours}
        table[f"x{scale}"] = {name: by_method[name] for name in _BESIDE} | linked
    text = readme.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise RefusedError(f"{readme}: has no place for the table, {_BEGIN.strip()} ... {_END}")
    readme.write_text(f"{before}{begin}{score_table(table)}\n{end}{after}")
