"""Confidence intervals of means and paired tests against bicubic."""

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
_INTERVAL = (2.5, 97.5)  # percentiles
_MIN_SLIDES = 5  # to resample slides instead of images
_MIN_PAIRS = 6  # with fewer pairs p < 0.05 is impossible

_F64 = NDArray[np.float64]
Scores = Mapping[str, Mapping[str, Sequence[float]]]  # method -> metric -> subject


@dataclass(frozen=True)
class MeanEstimate:
    """A mean with standard deviation and 95% confidence interval; None if n < 2."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def estimate(values: Sequence[float] | _F64, seed: int = 0) -> MeanEstimate:
    """Estimates the mean with a percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    The same seed and n give the same resamples, so intervals of paired values are comparable.
    """
    x: _F64 = np.asarray(values, np.float64)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return MeanEstimate(n, mean, None, None, None)
    drawn = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
    low, high = np.percentile(x[drawn].mean(axis=1), _INTERVAL)
    return MeanEstimate(n, mean, float(x.std(ddof=1)), float(low), float(high))


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of images, drawn as whole slides where there are several."""

    counts: _F64  # [resamples, images], how often each image is drawn
    unit: str  # "slide" or "image"
    units: int

    def ratio(self, numbers: _F64, wholes: _F64 | None = None) -> _F64:
        """Sum of numbers over sum of wholes, by default images; f64[images] -> f64[resamples].

        NaN where the wholes of a resample sum to zero.
        """
        over = self.counts @ (np.ones(len(numbers)) if wholes is None else wholes)
        ratio: _F64 = np.full(len(over), np.nan)
        np.divide(self.counts @ numbers, over, out=ratio, where=over > 0)
        return ratio


def resamples(slides: Sequence[str], seed: int = 0) -> Resamples:
    """Draws resamples of images of these slides, with replacement.

    Images of one slide are not independent, so slides are drawn if there are at least five, all of
    them known; with fewer an interval over slides would mean little, and images are drawn.
    """
    names, slide_of = np.unique(slides, return_inverse=True)
    by_slide = len(names) >= _MIN_SLIDES and all(slides)
    unit_of = slide_of if by_slide else np.arange(len(slides))
    units = int(unit_of.max()) + 1
    drawn = np.random.default_rng(seed).integers(units, size=(_RESAMPLES, units))
    drawn += units * np.arange(_RESAMPLES)[:, None]  # one histogram per row
    counts = np.bincount(drawn.ravel(), minlength=_RESAMPLES * units).reshape(-1, units)
    return Resamples(counts[:, unit_of].astype(np.float64), "slide" if by_slide else "image", units)


def interval(drawn: _F64) -> tuple[float | None, float | None]:
    """95% percentile interval of a figure over resamples; NaNs are left out, None if all are."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, _INTERVAL)
    return float(low), float(high)


def paired_p(values: Sequence[float] | _F64, others: Sequence[float] | _F64) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test (1945, Biometrics Bulletin 1:80).

    None for fewer than six pairs.
    """
    differences: _F64 = np.subtract(values, others)
    if len(differences) < _MIN_PAIRS:
        return None
    if not differences.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties: normal approximation
        return float(wilcoxon(differences).pvalue)


def summary(scale: int, subjects: Sequence[Subject], scores: Scores) -> list[ScoreRow]:
    """Summarises one scale: each data set as a whole, by slide, by label, and averaged per slide.

    Images of one slide are not independent. For data sets with several slides, prefer the rows with
    unit "slide", whose wider intervals account for this.
    """
    rows = []
    for data, whole in by_data(subjects).items():
        for part, chosen in _parts(subjects, whole).items():
            rows += _rows(scale, data, part, "image", _unit_means(scores, [[i] for i in chosen]))
        slides = _groups(subjects, whole, "group")
        if len(slides) > 1:
            rows += _rows(scale, data, "all", "slide", _unit_means(scores, list(slides.values())))
    return rows


def units(subjects: Sequence[Subject], whole: list[int]) -> dict[str, list[list[int]]]:
    """Maps "image", and "slide" if there are several, to the units: subject indices of each."""
    slides = list(_groups(subjects, whole, "group").values())
    return {"image": [[index] for index in whole]} | ({"slide": slides} if len(slides) > 1 else {})


def _parts(subjects: Sequence[Subject], whole: list[int]) -> dict[str, list[int]]:
    """Maps parts to subject indices; parts equal to the whole are omitted."""
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


def _unit_means(scores: Scores, units: Sequence[Sequence[int]]) -> dict[str, dict[str, _F64]]:
    """Averages within each unit: method -> metric -> f64[units]."""
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
            stats = estimate(x)
            p = None if method == BICUBIC else paired_p(x, values[BICUBIC][metric])
            rows.append(
                ScoreRow(
                    scale,
                    method,
                    data,
                    part,
                    unit,
                    metric,
                    stats.n,
                    stats.mean,
                    stats.sd,
                    stats.low,
                    stats.high,
                    p,
                )
            )
    return rows
