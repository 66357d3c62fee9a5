"""What people do with slides, done on enlarged images: nuclei counted, tumour told from normal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from slidesr.benchmark.nuclei import nuclei_scores
from slidesr.benchmark.pairs import ImagePair
from slidesr.benchmark.results import ImageScores, by_data
from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging.image_files import image_size, read_rgb

_TUMOR, _NORMAL = "tumor", "normal"

_F64 = NDArray[np.float64]


class Downstream:
    """Gathers the rows of both tables, scale by scale."""

    def __init__(
        self,
        pairs: Sequence[ImagePair],
        labelled: Sequence[ImagePair],
        features_of: Callable[[Pixels], _F64],
    ) -> None:
        """The classifier learns from `labelled`, or `pairs`; never from the slide it judges.

        `features_of` gives what it judges an image by.
        """
        self._features_of = features_of
        self._pairs, self._subjects = pairs, [pair.subject for pair in pairs]
        self._labelled = labelled or pairs
        self.nuclei: list[dict[str, Any]] = []
        self.classifier: list[dict[str, Any]] = []

    def add(self, scale: int, methods: Sequence[str], found: Sequence[ImageScores]) -> None:
        for data, of in by_data(self._subjects).items():
            self._add_nuclei(scale, data, methods, [found[i] for i in of], of)
            self._add_classifier(scale, data, methods, found, of)

    def _add_nuclei(
        self,
        scale: int,
        data: str,
        methods: Sequence[str],
        found: Sequence[ImageScores],
        of: list[int],
    ) -> None:
        sizes = [self._subjects[i].um_per_px for i in of]
        areas = [self._areas_px[i] * (um or 0) ** 2 / 1e6 for i, um in zip(of, sizes, strict=True)]
        mm2 = sum(areas) if all(sizes) else None
        totals = np.sum([each.nuclei for each in found], axis=0)
        for method, (high, made, matched) in zip(methods, totals.tolist(), strict=True):
            scores = nuclei_scores(high, made, matched, mm2)
            self.nuclei.append({"scale": scale, "data": data, "method": method, **scores})

    def _add_classifier(
        self,
        scale: int,
        data: str,
        methods: Sequence[str],
        found: Sequence[ImageScores],
        of: list[int],
    ) -> None:
        labelled = [i for i in of if self._subjects[i].label in (_TUMOR, _NORMAL)]
        slides = [self._subjects[i].slide for i in labelled]
        classifiers = classifiers_by_slide(slides, self._patches) if labelled else {}
        judged = [i for i in labelled if self._subjects[i].slide in classifiers]
        if not judged:
            return
        truth = [self._subjects[i].label == _TUMOR for i in judged]
        answers = np.array(
            [
                [
                    classifiers[self._subjects[i].slide].probability(features)
                    for features in found[i].features.astype(np.float64)
                ]
                for i in judged
            ]
        )  # [images, 1 + methods]
        for column, method in enumerate(("high resolution", *methods)):
            scores = classifier_scores(truth, answers[:, 0].tolist(), answers[:, column].tolist())
            self.classifier.append({"scale": scale, "data": data, "method": method, **scores})

    @cached_property
    def _areas_px(self) -> list[int]:
        return [image_size(pair.high).area for pair in self._pairs]

    @cached_property
    def _patches(self) -> list[LabelledPatch]:
        """What teaches: labelled patches of the high resolution, of slides that have a name."""
        return [
            LabelledPatch(
                subject.slide, subject.label == _TUMOR, self._features_of(read_rgb(pair.high))
            )
            for pair in self._labelled
            if (subject := pair.subject).label in (_TUMOR, _NORMAL) and subject.slide
        ]


_RIDGE = 0.1

_Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledPatch:
    """A labelled patch: its slide, whether it is tumour, and what it is judged by, f64[d]."""

    slide: str
    is_tumor: bool
    features: _F64


class Classifier:
    """Logistic regression on a network's features, tumour against normal.

    Both classes weigh the same, whatever their numbers. It has one optimum, so the same patches
    give the same classifier.
    """

    def __init__(self, patches: Sequence[LabelledPatch]) -> None:
        """RefusedError where the patches hold one class alone."""
        labels = np.array([patch.is_tumor for patch in patches])
        if labels.all() or not labels.any():
            raise RefusedError(
                "a classifier needs patches labelled tumor and patches labelled normal"
            )
        features = np.array([patch.features for patch in patches])
        self._mean, self._std = features.mean(axis=0), features.std(axis=0) + 1e-9
        signs = np.where(labels, 1.0, -1.0)
        weights = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
        self._line = _fitted((features - self._mean) / self._std, signs, weights)

    def probability(self, features: _F64) -> float:
        """That a patch is tumour, of its f64[d]."""
        x = (features - self._mean) / self._std
        return float(expit(x @ self._line[:-1] + self._line[-1]))


def classifier_scores(
    truth: Sequence[bool], of_high: Sequence[float], of_made: Sequence[float]
) -> dict[str, float | int | None]:
    """What a method's images do to the classifier's answers, beside those on the true images.

    A slide's stain moves all answers at once, so the level above which an image counts as tumour is
    the one that calls as many of the true images tumour as there are. Agreement is the share of
    images on which it decides alike, shift the mean absolute change of its probability; AUC is None
    where there is one class alone.
    """
    labels, high, made = np.array(truth), np.array(of_high), np.array(of_made)
    level = np.quantile(high, 1 - labels.mean())
    return {
        "images": len(labels),
        "accuracy": float(((made > level) == labels).mean()),
        "AUC": _auc(labels, made),
        "agreement": float(((made > level) == (high > level)).mean()),
        "shift": float(np.abs(made - high).mean()),
    }


def classifiers_by_slide(
    slides: Iterable[str], patches: Sequence[LabelledPatch]
) -> dict[str, Classifier]:
    """For each slide a classifier fitted to the patches of all others.

    A slide is left out where those hold one class alone.
    """
    found = {}
    for slide in sorted(set(slides)):
        others = [patch for patch in patches if patch.slide != slide]
        if len({patch.is_tumor for patch in others}) == 2:
            found[slide] = Classifier(others)
    return found


def _fitted(x: _F64, signs: _F64, weights: _F64) -> _F64:
    """Slopes and offset, f64[d + 1], of the least weighted logistic loss with a ridge."""

    def loss(line: _F64) -> tuple[float, _F64]:
        slopes = line[:-1]
        margins = signs * (x @ slopes + line[-1])
        value = weights @ np.logaddexp(0, -margins) + _RIDGE / 2 * slopes @ slopes
        pull = -weights * signs * expit(-margins)
        return float(value), np.append(x.T @ pull + _RIDGE * slopes, pull.sum())

    line: _F64 = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return line


def _auc(labels: _Bool, scores: _F64) -> float | None:
    """How often a tumour scores above a normal patch: Mann and Whitney's U, as a share."""
    tumors, normals = int(labels.sum()), int((~labels).sum())
    if not (tumors and normals):
        return None
    u = rankdata(scores)[labels].sum() - tumors * (tumors + 1) / 2
    return float(u / (tumors * normals))
