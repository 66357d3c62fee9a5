"""The HTML report: a single self-contained file without external requests."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from slidesr.benchmark.results import PairRow, Results, ScoreRow
from slidesr.benchmark.task_tables import classifier_tables, nuclei_tables
from slidesr.geometry import Pixels
from slidesr.model.score_table import (
    NO_JUDGE,
    OWN_LOSS_MARK,
    OWN_LOSS_NOTE,
    STRUCTURE_GROUP,
    Column,
    column,
    further_metrics,
    group_note,
    headline_metrics,
    headline_note,
    judge_name,
)
from slidesr.runtime.atomic_files import whole_file

_SIGNIFICANT = 0.05
_PAIR_MARK_NOTE = "Judged by the loss network of one of the two."
_BOXED = ("psnr_db", "ssim", "qilv")
_PAGE = files("slidesr.benchmark") / "page"


@dataclass(frozen=True)
class Case:
    """A crop of one image in every method's output."""

    scale: int
    subject: str
    why: str  # "worst", "typical" or "best", by gain of the main method
    low: Pixels  # [h, w, 3]
    high: Pixels  # [h*s, w*s, 3]
    outputs: Mapping[str, Pixels]  # method -> output, shaped like high
    psnr_db: Mapping[str, float]  # method -> PSNR of the whole image


def write_report(path: Path, results: Results, cases: Sequence[Case]) -> None:
    """Writes the report; identical input gives identical bytes."""
    texts = {name: (_PAGE / name).read_text() for name in ("page.html", "page.css", "page.js")}
    pages = Environment(loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined)
    page = pages.get_template("page.html").render(
        css=Markup(texts["page.css"]),  # noqa: S704 - our own files
        js=Markup(texts["page.js"]),  # noqa: S704
        results=results,
        scales=[_scale(scale, results, cases) for scale in results.scores],
        nuclei=nuclei_tables(results.nuclei),
        classifier=classifier_tables(results.classifier),
        pairs=_pair_tables(results.pairs, results.headline),
        protocol=_protocol(results),
        headline=judge_name(results.headline),
        note=headline_note(results.headline),
        no_judge="" if results.headline else NO_JUDGE,
        mark=OWN_LOSS_MARK,
        mark_note=OWN_LOSS_NOTE,
        pair_mark_note=_PAIR_MARK_NOTE if any(row.own_loss for row in results.pairs) else "",
    )
    with whole_file(path) as file:
        file.write(page.encode())


def _scale(scale: int, results: Results, cases: Sequence[Case]) -> dict[str, Any]:
    rows = [row for row in results.summary if row.scale == scale]
    methods = list(results.scores[scale])
    data_sets = list(dict.fromkeys(row.data for row in rows))
    metrics, headline = [row.metric for row in rows], results.headline
    shown = headline_metrics(metrics, headline)
    return {
        "scale": scale,
        "methods": [
            {
                "name": name,
                "number": number,
                "kind": _kind(results.methods[scale][name]),
                "facts": results.methods[scale][name],
            }
            for number, name in enumerate(methods, start=1)
        ],
        "tables": [_table((data, "all", "image"), rows, shown, headline) for data in data_sets],
        "groups": [
            _group(group, data_sets, rows, names, headline)
            for group, names in further_metrics(metrics, headline).items()
        ],
        "parts": [_table(key, rows, shown, headline) for key in _other_parts(rows)],
        "planes": [_plane(data, rows, methods, headline) for data in data_sets if headline],
        "boxes": _boxes(results, scale),
        "cases": [_case(case) for case in cases if case.scale == scale],
    }


def _group(
    group: str,
    data_sets: Sequence[str],
    rows: Sequence[ScoreRow],
    metrics: Sequence[str],
    headline: str,
) -> dict[str, Any]:
    is_marked = any(row.own_loss for row in rows if row.metric in metrics)
    return {
        "name": group,
        "note": group_note(group, is_marked=is_marked),
        "is_open": group == STRUCTURE_GROUP,
        "tables": [_table((data, "all", "image"), rows, metrics, headline) for data in data_sets],
    }


def _kind(facts: Mapping[str, Any]) -> str:
    """Classifies a method for colouring: classical, baseline, fidelity or gan."""
    if facts.get("kind") != "WA-SRGAN":
        return "classical" if facts.get("kind") == "classical" else "baseline"
    return str(facts.get("stage", "gan"))


def _other_parts(rows: Sequence[ScoreRow]) -> list[tuple[str, str, str]]:
    keys = dict.fromkeys((row.data, row.part, row.unit) for row in rows)
    return [key for key in keys if key[1:] != ("all", "image")]


def _table(
    key: tuple[str, str, str], rows: Sequence[ScoreRow], metrics: Sequence[str], headline: str
) -> dict[str, Any]:
    """Builds one row per method and one cell per metric; marks the best of each column.

    `key` is data set, part and unit. What a method's own loss judged is never the best.
    """
    chosen = [row for row in rows if (row.data, row.part, row.unit) == key]
    columns = {
        name: column(name, headline)
        for name in metrics
        if any(row.metric == name for row in chosen)
    }
    best = {
        name: each.best(row.mean for row in chosen if row.metric == name and not row.own_loss)
        for name, each in columns.items()
    }
    lines: dict[str, dict[str, dict[str, Any]]] = {}
    for row in chosen:
        if row.metric in columns:
            cell = _cell(row, columns[row.metric], best[row.metric])
            lines.setdefault(row.method, {})[row.metric] = cell
    data, part, unit = key
    return {
        "data": data,
        "part": part,
        "unit": unit,
        "n": chosen[0].n,
        "heads": [
            {"name": each.heading, "arrow": each.arrow, "better": each.better}
            for each in columns.values()
        ],
        "lines": [(name, [cells[metric] for metric in columns]) for name, cells in lines.items()],
    }


def _cell(row: ScoreRow, shown_as: Column, best: str) -> dict[str, Any]:
    ends = [shown_as.text(end) for end in (row.low, row.high) if end is not None]
    return {
        "mean": shown_as.text(row.mean),
        "best": shown_as.text(row.mean) == best and not row.own_loss,
        "interval": " to ".join(ends),
        "differs": row.p is not None and row.p < _SIGNIFICANT,
        "own_loss": row.own_loss,
    }


def _protocol(results: Results) -> dict[str, Any]:
    """The options, with the judges in words."""
    judges = {judge_name(key): digest for key, digest in results.protocol["judges"].items()}
    texts = [f"{name} (sha256 {digest})" for name, digest in judges.items()]
    return results.protocol | {"judges": texts, "headline_judge": judge_name(results.headline)}


def _plane(
    data: str, rows: Sequence[ScoreRow], methods: Sequence[str], headline: str
) -> dict[str, Any]:
    """Builds the perception-distortion plane (Blau and Michaeli 2018, arXiv 1711.06077)."""
    means = {
        (row.method, row.metric): row.mean
        for row in rows
        if (row.data, row.part, row.unit) == (data, "all", "image")
    }
    points = [(means[name, "psnr_db"], means[name, f"distance_{headline}"]) for name in methods]
    x_ticks, y_ticks = (_ticks(values) for values in zip(*points, strict=True))
    return {
        "data": data,
        "points": [
            (number, name, _share(x, x_ticks), _share(y, y_ticks))
            for number, (name, (x, y)) in enumerate(zip(methods, points, strict=True), start=1)
        ],
        "x_ticks": [(f"{tick:g}", _share(tick, x_ticks)) for tick in x_ticks],
        "y_ticks": [(f"{tick:g}", _share(tick, y_ticks)) for tick in y_ticks],
    }


def _ticks(values: Sequence[float]) -> list[float]:
    """Chooses four to eight round numbers that enclose the values."""
    low, high = min(values), max(values)
    spread = max(high - low, 1e-3)
    power = 10.0 ** np.floor(np.log10(spread))
    step = next(power * each for each in (0.2, 0.5, 1, 2) if spread / (power * each) <= 6)
    first, last = np.floor(low / step), np.ceil(high / step)
    last = max(last, first + 1)
    return [round(float(n * step), 6) for n in np.arange(first, last + 1)]


def _share(value: float, ticks: Sequence[float]) -> float:
    return round((value - ticks[0]) / (ticks[-1] - ticks[0]), 4)


def _boxes(results: Results, scale: int) -> list[dict[str, Any]]:
    """Builds box plots of each method over all images; whiskers are minimum and maximum."""
    plots = []
    of_judge = [f"distance_{results.headline}"] if results.headline else []
    for metric in (*_BOXED, *of_judge):
        values = {name: scores[metric] for name, scores in results.scores[scale].items()}
        ticks = _ticks([value for each in values.values() for value in each])
        plots.append(
            {
                "metric": column(metric, results.headline).heading,
                "ticks": [(f"{tick:g}", _share(tick, ticks)) for tick in ticks],
                "boxes": [
                    (
                        name,
                        [
                            _share(float(at), ticks)
                            for at in np.percentile(each, (0, 25, 50, 75, 100))
                        ],
                    )
                    for name, each in values.items()
                ],
            }
        )
    return plots


def _case(case: Case) -> dict[str, Any]:
    pictures: list[tuple[str, Pixels, str | None]] = [("low resolution", case.low, None)]
    pictures += [
        (name, image, f"{case.psnr_db[name]:.2f} dB")
        for name, image in case.outputs.items()
        if name != "nearest"  # looks like the low resolution
    ]
    pictures.append(("high resolution", case.high, None))
    return {
        "subject": case.subject,
        "why": case.why,
        "width": case.high.shape[1],
        "height": case.high.shape[0],
        "pictures": [(name, _data_uri(image), caption) for name, image, caption in pictures],
    }


def _data_uri(image: Pixels) -> str:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "webp", lossless=True, quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _pair_tables(rows: Sequence[PairRow], headline: str) -> list[dict[str, Any]]:
    """Builds one table per pair of models, data set and unit: one line per metric."""

    def of(row: PairRow) -> tuple[int, str, str, str, str]:
        return row.scale, row.data, row.method, row.other, row.unit

    tables = []
    for _, group in groupby(rows, of):
        lines = list(group)
        tables.append({"of": lines[0], "lines": [_pair_line(row, headline) for row in lines]})
    return tables


def _pair_line(row: PairRow, headline: str) -> dict[str, Any]:
    shown_as = column(row.metric, headline)
    style = f"+z.{shown_as.digits}f"
    interval = "" if row.low is None else f"{row.low:{style}} to {row.high:{style}}"
    return {
        "metric": shown_as.heading,
        "difference": f"{row.difference:{style}}",
        "interval": interval,
        "p": "unknown" if row.p is None else f"{row.p:.2g}",
        "own_loss": row.own_loss,
    }
