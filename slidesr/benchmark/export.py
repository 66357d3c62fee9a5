"""Writes the results of a comparison to files, and its scores to the model cards.

OUTPUT/results.json   all results, machine-readable
OUTPUT/scores.csv     one row per image, scale and method
OUTPUT/summary.csv    means with confidence intervals and p values
OUTPUT/tables.md      one table per scale
OUTPUT/report.html    the report, with pictures
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
_BASELINES = ("bicubic", "bicubic + back-projection")
_BEGIN, _END = "<!-- slidesr benchmark -->\n", "<!-- end -->\n"
_INTRO = """# Shipped weights

Each file is a safetensors with everything about it in its header; the card beside it says the same
in words. `slidesr models` lists them. Scores: antialiased bicubic protocol, RGB, mean over the
images of slides that no model was trained on; distance and FID are those of the histology encoder,
less is better. Made by `slidesr benchmark DATA --scales 2,4,8,16 --update-cards`.
"""

_MeanScores = dict[str, dict[str, dict[str, float]]]  # data set -> method -> metric -> mean


def refuse_other_results(output: Path, protocol: Mapping[str, object]) -> None:
    """Raises RefusedError if `output` holds the results of a different comparison."""
    path = output / _RESULTS
    if path.exists() and Results.read(path).protocol != protocol:
        raise RefusedError(
            f"{path}: the results of another comparison. Give another -o, or --overwrite."
        )


def write_results(output: Path, results: Results, cases: Sequence[Case]) -> None:
    """Writes all files. results.json is last: if it exists, the others are complete."""
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
    """Formats one table per scale, the best value of each column in bold."""
    return "\n\n".join(
        f"## x{scale}\n\n"
        + score_table(means([row for row in results.summary if row.scale == scale]))
        for scale in results.scores
    )


def summary_csv(results: Results) -> str:
    """Formats the rows of the summary as CSV."""
    return _csv([field.name for field in fields(ScoreRow)], map(asdict, results.summary))


def scores_csv(results: Results) -> str:
    """Formats one row per image, scale and method, with one column per metric."""
    lines = []
    for scale, by_method in results.scores.items():
        for method, by_metric in by_method.items():
            for index, subject in enumerate(results.subjects):
                numbers = {name: values[index] for name, values in by_metric.items()}
                lines.append({"scale": scale, "method": method, **asdict(subject), **numbers})
    return _csv(list(lines[0]), lines)


def update_cards(results: Results, folder: Path, readme: Path) -> None:
    """Stores the scores in the headers and cards in `folder`, its README.md and `readme`.

    A card lists its model next to bicubic, back-projection and the fidelity weights it was trained
    from. The weights themselves do not change. Raises RefusedError unless the comparison covers all
    shipped models under the bicubic protocol.
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
    shown = (*_BASELINES, f"{spec.name}-fidelity", spec.name)
    own = {
        data: {name: by_method[name] for name in sorted(shown) if name in by_method}
        for data, by_method in scores.items()
    }
    _, generator = read_model(folder / f"{spec.name}.safetensors")
    write_model(folder, replace(spec, scores=own), own, generator)


def _update_readme(readme: Path, by_scale: dict[int, _MeanScores]) -> None:
    """Replaces the table between the markers with the means on the first data set."""
    table = {}
    for scale, scores in by_scale.items():
        by_method = next(iter(scores.values()))
        ours = (f"wa-srgan-x{scale}-fidelity", f"wa-srgan-x{scale}")
        linked = {f"[{name}](models/{name}.md)": by_method[name] for name in ours}
        table[f"x{scale}"] = {name: by_method[name] for name in _BASELINES} | linked
    text = readme.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise RefusedError(f"{readme}: no markers for the table: {_BEGIN.strip()} ... {_END}")
    readme.write_text(f"{before}{begin}{score_table(table)}\n{end}{after}")


def _csv(names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
