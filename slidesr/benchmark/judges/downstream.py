"""Rows of the downstream tables: nuclei, and the classifier's answers on every method's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from slidesr.benchmark.judges.labels import Example, tested_sets
from slidesr.benchmark.judges.nuclei import COUNTS, SIZES
from slidesr.benchmark.results import Subject, TaskRow, by_data
from slidesr.benchmark.statistics import Resamples, interval, resamples

HIGH, LOW = "high resolution", "low resolution"  # shown to the classifier like methods

_F64 = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_MM2_FROM_UM2 = 1e-6


@dataclass(frozen=True)
class _Figure:
    """A metric; `seeds` are its values by seed, `drawn` those of resampled images."""

    value: float | None
    drawn: _F64 | None = None  # [resamples], NaN where undefined
    seeds: _F64 | None = None


def classifier_rows(
    scale: int,
    methods: Sequence[str],
    tested: Mapping[int, Example],
    probabilities: Mapping[int, NDArray[np.float32]],
) -> list[TaskRow]:
    """Scores the classifier on high resolution, low resolution and methods, per data set and task.

    `probabilities` are those of the images that are tested, f32[seeds, 2 + methods]. Values are
    means over seeds. Intervals are of these means, over resampled images or slides.
    """
    rows = []
    for (data, task), indices in tested_sets(tested).items():
        truth = np.array([tested[index].is_positive for index in indices])
        drawn = resamples([tested[index].group for index in indices])
        by_seed = np.stack([probabilities[index] for index in indices], axis=1).astype(np.float64)
        for column, method in enumerate((HIGH, LOW, *methods)):
            figures = classifier_figures(truth, by_seed[..., 0], by_seed[..., column], drawn)
            rows += _rows((scale, method, data, task), len(indices), drawn, figures)
    return rows


def classifier_figures(
    truth: _Bool, high: _F64, output: _F64, drawn: Resamples
) -> dict[str, _Figure]:
    """Compares the probabilities of outputs with those of the true images, f64[seeds, images] both.

    Images of all folds are ranked together, though each fold has classifiers of its own: AUC is
    that of the whole data set, not the mean over folds. A slide's stain shifts all probabilities at
    once, so the threshold of a seed is the quantile that calls as many of the true images positive
    as there are. Agreement is the share of images with the same decision, shift the mean absolute
    change in probability.
    """
    thresholds = np.quantile(high, 1 - truth.mean(), axis=1, keepdims=True)
    decided, decided_high = output > thresholds, high > thresholds
    return {
        "accuracy": _mean(decided == truth, drawn),
        "auc": _Figure(
            float(np.mean(by_seed := [roc_auc_score(truth, each) for each in output])),
            _drawn_auc(truth, output, drawn),
            np.array(by_seed),
        ),
        "agreement": _mean(decided == decided_high, drawn),
        "shift": _mean(np.abs(output - high), drawn),
    }


def _mean(values: _F64 | _Bool, drawn: Resamples) -> _Figure:
    """The mean of [seeds, images]."""
    by_seed = values.mean(axis=1)
    return _Figure(float(by_seed.mean()), drawn.ratio(values.mean(axis=0)), by_seed)


def _drawn_auc(truth: _Bool, output: _F64, drawn: Resamples) -> _F64:
    """Area under the ROC curve of each resample, averaged over seeds; NaN with one class alone.

    It is the share of pairs of a positive and a negative image that are in order, ties half.
    """
    positives, negatives = output[:, truth, None], output[:, None, ~truth]
    ordered = ((positives > negatives) + (positives == negatives) / 2).mean(axis=0)
    of_positives, of_negatives = drawn.counts[:, truth], drawn.counts[:, ~truth]
    pairs = of_positives.sum(axis=1) * of_negatives.sum(axis=1)
    right = ((of_positives @ ordered) * of_negatives).sum(axis=1)
    areas: _F64 = np.full(len(pairs), np.nan)
    np.divide(right, pairs, out=areas, where=pairs > 0)
    return areas


def nuclei_rows(
    scale: int,
    methods: Sequence[str],
    subjects: Sequence[Subject],
    areas_px: Sequence[int],
    counts: Sequence[_F64],
) -> list[TaskRow]:
    """Scores the nuclei of each method per data set, of all sizes and by size.

    `counts` are `compared_nuclei` of all methods, f64[methods, sizes, COUNTS] per image; areas are
    those of the images compared. Rates per mm2 are None if a pixel size is unknown.
    """
    rows = []
    for data, indices in by_data(subjects).items():
        drawn = resamples([subjects[i].group for i in indices])
        sizes_um = [subjects[i].um_per_px for i in indices]
        mm2 = None
        if all(sizes_um):
            mm2 = np.array(
                [
                    areas_px[i] * (um or 0) ** 2 * _MM2_FROM_UM2
                    for i, um in zip(indices, sizes_um, strict=True)
                ]
            )
        table = np.stack([counts[i] for i in indices])  # [images, methods, sizes, COUNTS]
        for number, method in enumerate(methods):
            parts = {"all": table[:, number].sum(axis=1)}
            parts |= {size: table[:, number, place] for place, size in enumerate(SIZES)}
            for part, each in parts.items():
                key = scale, method, data, part
                rows += _rows(key, len(indices), drawn, nuclei_figures(each, mm2, drawn))
    return rows


def nuclei_figures(counts: _F64, mm2: _F64 | None, drawn: Resamples) -> dict[str, _Figure]:
    """Computes shares and rates from counts, f64[images, COUNTS], and areas, f64[images].

    Rates are of totals over the images. None if undefined.
    """
    of = dict(zip(COUNTS, counts.T, strict=True))
    rates = {
        "kept": of["kept"],
        "invented": of["invented"],
        "lost": of["high"] - of["kept"],
        "merged": of["merged"],
        "split": of["split"],
    }
    return {
        "in_high": _Figure(float(of["high"].sum())),
        "found": _Figure(float(of["found"].sum())),
        "precision": _ratio(of["found"] - of["invented"], of["found"], drawn),
        "recall": _ratio(of["kept"], of["high"], drawn),
        **{f"{name}_per_mm2": _ratio(number, mm2, drawn) for name, number in rates.items()},
        "area_change": _ratio(of["area_change"], of["kept"], drawn),
    }


def _ratio(numbers: _F64, wholes: _F64 | None, drawn: Resamples) -> _Figure:
    if wholes is None or not wholes.sum():
        return _Figure(None)
    return _Figure(float(numbers.sum() / wholes.sum()), drawn.ratio(numbers, wholes))


def _rows(
    key: tuple[int, str, str, str], n: int, drawn: Resamples, figures: Mapping[str, _Figure]
) -> list[TaskRow]:
    rows = []
    for metric, figure in figures.items():
        low, high = (None, None) if figure.drawn is None else interval(figure.drawn)
        seeds = figure.seeds
        seed_sd = float(seeds.std(ddof=1)) if seeds is not None and len(seeds) > 1 else None
        rows.append(
            TaskRow(*key, metric, n, figure.value, low, high, drawn.unit, drawn.units, seed_sd)
        )
    return rows
