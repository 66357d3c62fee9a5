"""Confidence intervals of means, and paired tests against bicubic."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from slidesr.benchmark.methods import BICUBIC
from slidesr.benchmark.results import ScoreRow, Subject, by_data

_RESAMPLES = 2000
_COVERED = (2.5, 97.5)  # percentiles
_LEAST_FOR_TEST = 6  # below, no outcome reaches p < 0.05

_F64 = NDArray[np.float64]
_Scores = Mapping[str, Mapping[str, Sequence[float]]]  # method -> metric -> by subject


@dataclass(frozen=True)
class MeanEstimate:
    """A mean with standard deviation and 95% interval; None if n is too small."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def estimate(values: Sequence[float] | _F64, seed: int = 0) -> MeanEstimate:
    """Estimates a mean with a percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Equal seed and n give the same resamples, so intervals of paired values are comparable.
    """
    x: _F64 = np.asarray(values, np.float64)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return MeanEstimate(n, mean, None, None, None)
    drawn = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
    low, high = np.percentile(x[drawn].mean(axis=1), _COVERED)
    return MeanEstimate(n, mean, float(x.std(ddof=1)), float(low), float(high))


def paired_p(values: Sequence[float] | _F64, others: Sequence[float] | _F64) -> float | None:
    """The two-sided p value of Wilcoxon's signed-rank test (1945, Biometrics Bulletin 1:80).

    None for fewer than six pairs.
    """
    differences: _F64 = np.subtract(values, others)
    if len(differences) < _LEAST_FOR_TEST:
        return None
    if not differences.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties make it fall back to the normal approximation
        return float(wilcoxon(differences).pvalue)


def summary(scale: int, subjects: Sequence[Subject], scores: _Scores) -> list[ScoreRow]:
    """Summarises one scale: per data set, slide and label, and with slides as units.

    Images of one slide are not independent: for data sets with several slides, trust the rows whose
    unit is the slide, although their intervals are wider.
    """
    rows = []
    for data, whole in by_data(subjects).items():
        for part, chosen in _parts(subjects, whole).items():
            rows += _rows(scale, data, part, "image", _taken(scores, [[i] for i in chosen]))
        slides = _groups(subjects, whole, "slide")
        if len(slides) > 1:
            rows += _rows(scale, data, "all", "slide", _taken(scores, list(slides.values())))
    return rows


def _parts(subjects: Sequence[Subject], whole: list[int]) -> dict[str, list[int]]:
    """Splits subjects by label and slide; parts equal to the whole are omitted."""
    parts = {"all": whole}
    for kind in ("label", "slide"):
        for value, chosen in _groups(subjects, whole, kind).items():
            if len(chosen) < len(whole):
                parts[f"{kind} {value}"] = chosen
    return parts


def _groups(subjects: Sequence[Subject], whole: list[int], kind: str) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index in whole:
        if value := getattr(subjects[index], kind):
            groups.setdefault(value, []).append(index)
    return groups


def _taken(scores: _Scores, units: Sequence[Sequence[int]]) -> dict[str, dict[str, _F64]]:
    """The mean of each unit: method -> metric -> f64[units]."""
    return {
        method: {
            name: np.array([np.mean([values[i] for i in unit]) for unit in units])
            for name, values in by_metric.items()
        }
        for method, by_metric in scores.items()
    }


def _rows(
    scale: int, data: str, part: str, unit: str, values: Mapping[str, Mapping[str, _F64]]
) -> list[ScoreRow]:
    rows = []
    for method, by_metric in values.items():
        for metric, x in by_metric.items():
            estimated = estimate(x)
            p = None if method == BICUBIC else paired_p(x, values[BICUBIC][metric])
            rows.append(
                ScoreRow(
                    scale,
                    method,
                    data,
                    part,
                    unit,
                    metric,
                    estimated.n,
                    estimated.mean,
                    estimated.sd,
                    estimated.low,
                    estimated.high,
                    p,
                )
            )
    return rows
