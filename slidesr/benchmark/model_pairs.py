"""Models that belong together: what a training stage, its critic or the ensemble changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesr.benchmark.methods import Method
from slidesr.benchmark.results import PairRow, Subject, by_data
from slidesr.benchmark.statistics import MeanEstimate, Scores, estimate, paired_p, units
from slidesr.model.score_table import is_own_loss_of

_UNSEEN_DB, _FAINT_DB = 50.0, 40.0  # differences of 0.8 and 2.6 grey levels
_INTRO = """Two models that differ by a training stage, its critic or the ensemble: PSNR between
their outputs, mean over images and the greatest. 50 dB and more is invisible. pairs.csv has the
differences of all metrics of single images."""

_F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Relation:
    """Two compared methods of which the first has something more than the other."""

    method: str
    other: str
    name: str
    gain: str  # what the first has more
    indices: tuple[int, int]  # of both among the methods
    loss_networks: tuple[str, ...] = ()  # those of both


def relations(methods: Sequence[Method]) -> list[Relation]:
    """Finds each model that started from another, repeats it without its critic, or averages it.

    The names of the first two are the facts "start" and "ablates" of a method. Both have the same
    tolerance, and neither is interpolated by a perception.
    """
    place_of = {
        (method.facts["model"], *_choices(method)): place
        for place, method in enumerate(methods)
        if "model" in method.facts and "perception" not in method.facts
    }
    found = []
    for (name, tolerance, ensemble), place in place_of.items():
        facts = methods[place].facts
        start, whole = (
            place_of.get((facts.get(key), tolerance, ensemble)) for key in ("start", "ablates")
        )
        single = place_of.get((name, tolerance, None)) if ensemble else None
        if start is not None:
            found.append((place, start, *_stage(facts)))
        if whole is not None:
            found.append((whole, place, "with critic against without", "the critic"))
        if single is not None:
            found.append((place, single, "ensemble against a single pass", "the ensemble"))
    return [_relation(methods, *each) for each in found]


def _choices(method: Method) -> tuple[object, object]:
    return method.facts.get("tolerance"), method.facts.get("ensemble")


def pair_rows(
    scale: int,
    subjects: Sequence[Subject],
    relation: Relation,
    scores: Scores,
    agreement_db: _F64,
) -> list[PairRow]:
    """Compares two related models on each data set, metric by metric.

    `agreement_db` is the PSNR between both outputs, f64[images]. Where a data set has several
    slides, prefer the rows with unit "slide", as in `statistics.summary`.
    """
    rows = []
    for data, whole in by_data(subjects).items():
        mean_db, max_db = float(agreement_db[whole].mean()), float(agreement_db[whole].max())
        said = verdict(mean_db, relation.gain)
        for unit, members in units(subjects, whole).items():
            for metric, (stats, p) in _differences(relation, scores, members).items():
                rows.append(
                    PairRow(
                        scale,
                        data,
                        relation.method,
                        relation.other,
                        relation.name,
                        mean_db,
                        max_db,
                        said,
                        metric,
                        unit,
                        stats.n,
                        stats.mean,
                        stats.low,
                        stats.high,
                        p,
                        is_own_loss_of(metric, relation.loss_networks),
                    )
                )
    return rows


def verdict(agreement_db: float, gain: str) -> str:
    """Says what a mean PSNR between two outputs means.

    >>> verdict(57.3, "the critic")
    'the two outputs agree to 57.3 dB: the critic has no visible effect'
    """
    effect = "changes the image"
    if agreement_db >= _FAINT_DB:
        effect = "has a faint effect"
    if agreement_db >= _UNSEEN_DB:
        effect = "has no visible effect"
    return f"the two outputs agree to {agreement_db:.1f} dB: {gain} {effect}"


def _relation(methods: Sequence[Method], one: int, other: int, name: str, gain: str) -> Relation:
    both = methods[one], methods[other]
    used = {network: None for each in both for network in each.facts.get("loss networks", [])}
    return Relation(both[0].name, both[1].name, name, gain, (one, other), tuple(used))


def _stage(facts: Mapping[str, object]) -> tuple[str, str]:
    if facts.get("stage") != "gan":
        return "model against its start", "the training from there"
    if "ablates" in facts:
        return "GAN stage without critic against its start", "the stage without critic"
    return "GAN stage against its start", "the GAN stage"


def _differences(
    relation: Relation, scores: Scores, members: Sequence[Sequence[int]]
) -> dict[str, tuple[MeanEstimate, float | None]]:
    """Estimates the difference of each metric, method - other, and tests it over the units."""
    found = {}
    for metric in scores[relation.method]:
        these, those = (
            np.array([np.mean([values[index] for index in unit]) for unit in members])
            for values in (scores[name][metric] for name in (relation.method, relation.other))
        )
        found[metric] = estimate(these - those), paired_p(these, those)
    return found


def pairs_md(rows: Sequence[PairRow]) -> str:
    """Formats one Markdown table of all pairs: how far the outputs agree; may be empty."""
    if not rows:
        return ""
    lines = ["| data | pair | agreement (dB) | verdict |", "|---|---|---|---|"]
    shown = dict.fromkeys(
        (
            f"| x{row.scale}, {row.data} | {row.relation}: {row.method}, {row.other} "
            f"| {row.agreement_mean_db:.1f}, at most {row.agreement_max_db:.1f} | {row.verdict} |"
        )
        for row in rows
    )
    return "\n".join(["## Pairs of models", "", _INTRO, "", *lines, *shown])
