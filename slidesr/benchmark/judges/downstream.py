"""Downstream tasks on upscaled images: nucleus detection and tumour classification."""

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

from slidesr.benchmark.judges.nuclei import nuclei_scores
from slidesr.benchmark.pairs import ImagePair
from slidesr.benchmark.results import Found, by_data
from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.slide.image_files import image_size, read_rgb

_TUMOR, _NORMAL = "tumor", "normal"
_RIDGE = 0.1

_F64 = NDArray[np.float64]
_Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Patch:
    """A labelled patch with its features, f64[d]."""

    slide: str
    is_tumor: bool
    features: _F64


class Classifier:
    """Logistic regression on a network's features, tumour against normal.

    Both classes have the same total weight. The loss is convex, so the same patches always give the
    same classifier.
    """

    def __init__(self, patches: Sequence[Patch]) -> None:
        """Raises RefusedError unless both classes are present."""
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
        """Returns the probability that a patch with these features, f64[d], is tumour."""
        x = (features - self._mean) / self._std
        return float(expit(x @ self._line[:-1] + self._line[-1]))


def classifier_scores(
    truth: Sequence[bool], of_high: Sequence[float], of_output: Sequence[float]
) -> dict[str, float | int | None]:
    """Compares the classifier's probabilities on a method's outputs with those on the true images.

    A slide's stain shifts all probabilities at once, so the decision threshold is the quantile that
    calls as many of the true images tumour as there are. Agreement is the share of images with the
    same decision, shift the mean absolute change in probability. AUC is None if only one class is
    present.
    """
    labels, high, output = np.array(truth), np.array(of_high), np.array(of_output)
    threshold = np.quantile(high, 1 - labels.mean())
    return {
        "images": len(labels),
        "accuracy": float(((output > threshold) == labels).mean()),
        "AUC": _auc(labels, output),
        "agreement": float(((output > threshold) == (high > threshold)).mean()),
        "shift": float(np.abs(output - high).mean()),
    }


def classifiers_by_slide(slides: Iterable[str], patches: Sequence[Patch]) -> dict[str, Classifier]:
    """Fits one classifier per slide, on the patches of all other slides.

    Slides whose remaining patches contain only one class are omitted.
    """
    classifiers = {}
    for slide in sorted(set(slides)):
        others = [patch for patch in patches if patch.slide != slide]
        if len({patch.is_tumor for patch in others}) == 2:
            classifiers[slide] = Classifier(others)
    return classifiers


class Downstream:
    """Collects the rows of the nuclei and classifier tables, scale by scale."""

    def __init__(
        self,
        pairs: Sequence[ImagePair],
        labelled: Sequence[ImagePair],
        features_of: Callable[[Pixels], _F64],
    ) -> None:
        """`features_of` computes the classifier's input, f64[d], from an image.

        The classifier is trained on `labelled` (on `pairs` if empty), leaving out the slide it is
        tested on.
        """
        self._features_of = features_of
        self._pairs, self._subjects = pairs, [pair.subject for pair in pairs]
        self._labelled = labelled or pairs
        self.nuclei: list[dict[str, Any]] = []
        self.classifier: list[dict[str, Any]] = []

    def add(self, scale: int, methods: Sequence[str], found: Sequence[Found]) -> None:
        for data, indices in by_data(self._subjects).items():
            self._add_nuclei(scale, data, methods, [found[i] for i in indices], indices)
            self._add_classifier(scale, data, methods, found, indices)

    def _add_nuclei(
        self,
        scale: int,
        data: str,
        methods: Sequence[str],
        found: Sequence[Found],
        indices: list[int],
    ) -> None:
        sizes = [self._subjects[i].um_per_px for i in indices]
        areas = [
            self._areas_px[i] * (um or 0) ** 2 / 1e6 for i, um in zip(indices, sizes, strict=True)
        ]
        mm2 = sum(areas) if all(sizes) else None
        totals = np.sum([each.nuclei for each in found], axis=0)
        for method, (high, detected, matched) in zip(methods, totals.tolist(), strict=True):
            scores = nuclei_scores(high, detected, matched, mm2)
            self.nuclei.append({"scale": scale, "data": data, "method": method, **scores})

    def _add_classifier(
        self,
        scale: int,
        data: str,
        methods: Sequence[str],
        found: Sequence[Found],
        indices: list[int],
    ) -> None:
        labelled = [i for i in indices if self._subjects[i].label in (_TUMOR, _NORMAL)]
        slides = [self._subjects[i].slide for i in labelled]
        classifiers = classifiers_by_slide(slides, self._patches) if labelled else {}
        tested = [i for i in labelled if self._subjects[i].slide in classifiers]
        if not tested:
            return
        truth = [self._subjects[i].label == _TUMOR for i in tested]
        probabilities = np.array(
            [
                [
                    classifiers[self._subjects[i].slide].probability(features)
                    for features in found[i].features.astype(np.float64)
                ]
                for i in tested
            ]
        )  # [images, 1 + methods]
        for column, method in enumerate(("high resolution", *methods)):
            scores = classifier_scores(
                truth, probabilities[:, 0].tolist(), probabilities[:, column].tolist()
            )
            self.classifier.append({"scale": scale, "data": data, "method": method, **scores})

    @cached_property
    def _areas_px(self) -> list[int]:
        return [image_size(pair.high).area for pair in self._pairs]

    @cached_property
    def _patches(self) -> list[Patch]:
        """Training patches: labelled high-resolution images whose slide is known."""
        return [
            Patch(subject.slide, subject.label == _TUMOR, self._features_of(read_rgb(pair.high)))
            for pair in self._labelled
            if (subject := pair.subject).label in (_TUMOR, _NORMAL) and subject.slide
        ]


def _fitted(x: _F64, signs: _F64, weights: _F64) -> _F64:
    """Minimises the ridge-regularised weighted logistic loss: slopes and offset, f64[d + 1]."""

    def loss(line: _F64) -> tuple[float, _F64]:
        slopes = line[:-1]
        margins = signs * (x @ slopes + line[-1])
        value = weights @ np.logaddexp(0, -margins) + _RIDGE / 2 * slopes @ slopes
        gradient = -weights * signs * expit(-margins)
        return float(value), np.append(x.T @ gradient + _RIDGE * slopes, gradient.sum())

    line: _F64 = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return line


def _auc(labels: _Bool, scores: _F64) -> float | None:
    """Area under the ROC curve: the Mann-Whitney U statistic over its maximum."""
    tumors, normals = int(labels.sum()), int((~labels).sum())
    if not (tumors and normals):
        return None
    u = rankdata(scores)[labels].sum() - tumors * (tumors + 1) / 2
    return float(u / (tumors * normals))
