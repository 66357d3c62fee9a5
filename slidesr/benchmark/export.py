"""Writes the results of a comparison to files, model cards and READMEs.

OUTPUT/results.json   everything
OUTPUT/scores.csv     one row per image, scale and method
OUTPUT/summary.csv    means with confidence intervals and tests
OUTPUT/pairs.csv      differences between models that belong together
OUTPUT/tables.md      one table per scale, then downstream tasks, structure and pairs of models
OUTPUT/report.html    a self-contained report with pictures
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from slidesr.benchmark.methods import shipped_models
from slidesr.benchmark.model_pairs import pairs_md
from slidesr.benchmark.report import Case, write_report
from slidesr.benchmark.results import PairRow, Results, ScoreRow
from slidesr.benchmark.suite import means
from slidesr.benchmark.task_tables import classifier_tables, markdown_table, nuclei_tables
from slidesr.errors import RefusedError
from slidesr.model.card import write_model
from slidesr.model.score_table import (
    INDEPENDENT,
    NO_JUDGE,
    OWN_LOSS_MARK,
    OWN_LOSS_NOTE,
    STRUCTURE_GROUP,
    STRUCTURE_NOTE,
    further_metrics,
    headline_metrics,
    headline_note,
    judge_of,
    score_table,
)
from slidesr.model.weights import ModelSpec, list_models, read_model
from slidesr.runtime.atomic_files import whole_file

_RESULTS = "results.json"
_BASELINES = ("bicubic", "bicubic + back-projection")  # shown next to our models
_BEGIN, _END = "<!-- slidesr benchmark -->\n", "<!-- end -->\n"
_INTRO = (
    "# Shipped weights\n"
    "\n"
    "Each model is a safetensors file whose header describes it completely; the card next to it"
    " says the same in\n"
    "words. `slidesr models` lists them. Scores: antialiased bicubic protocol, RGB, mean over the"
    " [test images](../docs/data/README.md).\n"
    "Written by `slidesr benchmark DATA/test --scales 2,4,8,16 --update-cards`, or with `--model"
    " NAME` for some of\n"
    "them.\n"
    "\n"
    f"{headline_note(INDEPENDENT)}\n"
)

Scores = dict[str, dict[str, dict[str, float]]]  # data set -> method -> metric -> mean


def refuse_other_results(output: Path, protocol: Mapping[str, object]) -> None:
    """Raises RefusedError if `output` holds other results: of another comparison or version."""
    path = output / _RESULTS
    if not path.exists():
        return
    try:
        holds = "a different comparison" if Results.read(path).protocol != protocol else ""
    except (KeyError, TypeError, ValueError):
        holds = "another version of slidesr"
    if holds:
        raise RefusedError(
            f"{path}: holds the results of {holds}. Choose another -o, or use --overwrite."
        )


def write_results(output: Path, results: Results, cases: Sequence[Case]) -> None:
    """Writes all files, results.json last: if it exists, the others belong to it."""
    texts = {
        "scores.csv": scores_csv(results),
        "summary.csv": summary_csv(results),
        "pairs.csv": pairs_csv(results),
        "tables.md": tables_md(results),
    }
    write_report(output / "report.html", results, cases)
    for name, text in {**texts, _RESULTS: results.to_json()}.items():
        with whole_file(output / name) as file:
            file.write(text.encode())


def markdown(results: Results) -> str:
    """Formats Markdown tables per scale: fidelity and the headline judge, then the further judges.

    The best value of each column is in bold. Then come the tasks: behind a figure of a task stand
    its 95% interval and its standard deviation over seeds.
    """
    text = "\n\n".join(
        f"## x{scale}\n\n{_tables(results, scale, table)}"
        for scale, table in _means_by_scale(results).items()
    )
    notes = [headline_note(results.headline)]
    notes += [OWN_LOSS_NOTE] if OWN_LOSS_MARK in text else []
    return "\n\n".join([text, *notes, *_task_tables(results)])


def tables_md(results: Results) -> str:
    """Formats all tables: scores, tasks, structure, and pairs of models."""
    parts = (markdown(results), _structure(results), pairs_md(results.pairs))
    return "\n\n".join(part for part in parts if part) + "\n"


def pairs_csv(results: Results) -> str:
    """Formats the differences between related models as CSV."""
    return _csv([field.name for field in fields(PairRow)], map(asdict, results.pairs))


def summary_csv(results: Results) -> str:
    """Formats all summary rows as CSV."""
    return _csv([field.name for field in fields(ScoreRow)], map(asdict, results.summary))


def scores_csv(results: Results) -> str:
    """Formats one CSV row per image, scale and method, with one column per metric."""
    rows = []
    for scale, by_method in results.scores.items():
        for method, by_metric in by_method.items():
            for index, subject in enumerate(results.subjects):
                values = {name: values[index] for name, values in by_metric.items()}
                rows.append({"scale": scale, "method": method, **asdict(subject), **values})
    return _csv(list(rows[0]), rows)


def refuse_cards(methods: Collection[str], protocol: Mapping[str, Any]) -> None:
    """Raises RefusedError if the scores of such a comparison are none for model cards.

    It has to be by the bicubic protocol, with the independent judge, and to include the fidelity
    weights of each shipped model that is compared.
    """
    shipped = {spec.name for _, spec in list_models()}
    if protocol["degradation"] != "bicubic" or protocol["jpeg_quality"] is not None:
        raise RefusedError("cards need the bicubic protocol, without JPEG")
    if protocol["headline_judge"] != INDEPENDENT:
        raise RefusedError(f"cards need the independent judge. {NO_JUDGE}")
    if shipped.isdisjoint(methods):
        raise RefusedError("cards need shipped models, and none is compared")
    for name in sorted(shipped & set(methods)):
        fidelity = f"{name}-fidelity"
        if fidelity in shipped - set(methods):
            raise RefusedError(f"the card of {name} needs the scores of {fidelity}: compare both")


def update_cards(results: Results, folder: Path, readme: Path) -> None:
    """Writes the scores of shipped models into headers and cards, and all into the two READMEs.

    A card lists its model next to bicubic, back-projection and the fidelity weights it was
    fine-tuned from. Models that were not compared keep their scores. Weights are never changed.
    """
    compared = {name for methods in results.methods.values() for name in methods}
    shipped, by_scale = [spec for _, spec in list_models()], _means_by_scale(results)
    for spec in shipped:
        if spec.name in compared:
            _update_card(folder, spec, by_scale[spec.generator.scale])
    scales = sorted({spec.generator.scale for spec in shipped})
    on_cards = {scale: _scores_on_cards(shipped_models([scale])) for scale in scales}
    sections = (f"\n## x{scale}\n\n{_headline(table)}\n" for scale, table in on_cards.items())
    (folder / "README.md").write_text(_INTRO + "".join(sections))
    _update_readme(readme, on_cards)


def _csv(names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _means_by_scale(results: Results) -> dict[int, Scores]:
    return {
        scale: means([row for row in results.summary if row.scale == scale])
        for scale in results.scores
    }


def _tables(results: Results, scale: int, scores: Scores) -> str:
    """The table of the headline, and those of judged metrics outside of it."""
    metrics, headline = {row.metric: None for row in results.summary}, results.headline
    groups = {"": headline_metrics(metrics, headline)}
    for group, names in further_metrics(metrics, headline).items():
        groups[group] = [name for name in names if judge_of(name)]
    tables = (
        (group, score_table(scores, names, headline, results.loss_networks(scale)))
        for group, names in groups.items()
        if names
    )
    return "\n\n".join(
        f"{group[:1].upper()}{group[1:]}:\n\n{table}" if group else table for group, table in tables
    )


def _task_tables(results: Results) -> list[str]:
    tasks = {
        "Nuclei": nuclei_tables(results.nuclei),
        "Classifier": classifier_tables(results.classifier),
    }
    return [
        part
        for title, tables in tasks.items()
        if tables
        for part in (f"## {title}", *map(markdown_table, tables))
    ]


def _structure(results: Results) -> str:
    """The tables of what no network judges, one per scale; may be empty."""
    tables = []
    for scale, scores in _means_by_scale(results).items():
        names = further_metrics(_metrics(scores), results.headline).get(STRUCTURE_GROUP, [])
        if names:
            table = score_table(scores, names, results.headline, {})
            tables.append(f"### Structure, x{scale}\n\n{table}")
    return "\n\n".join(["## Structure", STRUCTURE_NOTE, *tables]) if tables else ""


def _headline(scores: Scores) -> str:
    """The table of cards and READMEs, where the independent judge is no network of any loss."""
    return score_table(scores, headline_metrics(_metrics(scores), INDEPENDENT), INDEPENDENT, {})


def _metrics(scores: Scores) -> list[str]:
    return [name for methods in scores.values() for metrics in methods.values() for name in metrics]


def _update_card(folder: Path, spec: ModelSpec, scores: Scores) -> None:
    shown = (*_BASELINES, f"{spec.name}-fidelity", spec.name)
    own = {
        data: {name: by_method[name] for name in sorted(shown) if name in by_method}
        for data, by_method in scores.items()
    }
    _, generator = read_model(folder / f"{spec.name}.safetensors")
    write_model(folder, replace(spec, scores=own), own, generator)


def _scores_on_cards(specs: Sequence[ModelSpec]) -> Scores:
    """The scores in the headers of the models of one scale, after those of the baselines."""
    table: Scores = {}
    for name in (*_BASELINES, *(spec.name for spec in specs)):
        for spec in specs:
            for data, by_method in spec.scores.items():
                if name in by_method:
                    table.setdefault(data, {})[name] = by_method[name]
    return table


def _update_readme(readme: Path, by_scale: dict[int, Scores]) -> None:
    """Replaces the table between the two markers: recommended models on the first data set.

    A scale whose weights are new and have not been scored yet is left out.
    """
    table = {}
    for scale, scores in by_scale.items():
        ours = (f"wa-srgan-x{scale}-fidelity", f"wa-srgan-x{scale}")
        by_method = next((of for of in scores.values() if of.keys() >= set(ours)), None)
        if by_method is None:
            continue
        linked = {f"[{name}](models/{name}.md)": by_method[name] for name in ours}
        table[f"x{scale}"] = {name: by_method[name] for name in _BASELINES} | linked
    text = readme.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise RefusedError(
            f"{readme}: the table's markers are missing: {_BEGIN.strip()} ... {_END.strip()}"
        )
    note = headline_note(INDEPENDENT)
    readme.write_text(f"{before}{begin}{_headline(table)}\n\n{note}\n{end}{after}")
