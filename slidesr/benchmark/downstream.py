"""What people do with slides, done on enlarged images: nuclei counted, tumour told from normal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesr.benchmark.classifier import Patch, classifier_scores, classifiers_by_slide
from slidesr.benchmark.nuclei import nuclei_scores
from slidesr.benchmark.pairs import Pair
from slidesr.benchmark.results import by_data
from slidesr.benchmark.store import Found
from slidesr.images import image_size, read_rgb

_TUMOR, _NORMAL = "tumor", "normal"

_U8 = NDArray[np.uint8]
_F64 = NDArray[np.float64]


class Downstream:
    """Gathers the rows of both tables, scale by scale."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        labelled: Sequence[Pair],
        features_of: Callable[[_U8], _F64],
    ) -> None:
        """The classifier learns from `labelled`, or `pairs`; never from the slide it judges.

        `features_of` gives what it judges an image by.
        """
        self._features_of = features_of
        self._pairs, self._subjects = pairs, [pair.subject for pair in pairs]
        self._labelled = labelled or pairs
        self.nuclei: list[dict[str, Any]] = []
        self.classifier: list[dict[str, Any]] = []

    def add(self, scale: int, methods: Sequence[str], found: Sequence[Found]) -> None:
        for data, of in by_data(self._subjects).items():
            self._add_nuclei(scale, data, methods, [found[i] for i in of], of)
            self._add_classifier(scale, data, methods, found, of)

    def _add_nuclei(
        self, scale: int, data: str, methods: Sequence[str], found: Sequence[Found], of: list[int]
    ) -> None:
        sizes = [self._subjects[i].um_per_px for i in of]
        areas = [self._areas_px[i] * (um or 0) ** 2 / 1e6 for i, um in zip(of, sizes, strict=True)]
        mm2 = sum(areas) if all(sizes) else None
        totals = np.sum([each.nuclei for each in found], axis=0)
        for method, (high, made, matched) in zip(methods, totals.tolist(), strict=True):
            scores = nuclei_scores(high, made, matched, mm2)
            self.nuclei.append({"scale": scale, "data": data, "method": method, **scores})

    def _add_classifier(
        self, scale: int, data: str, methods: Sequence[str], found: Sequence[Found], of: list[int]
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
    def _patches(self) -> list[Patch]:
        """What teaches: labelled patches of the high resolution, of slides that have a name."""
        return [
            Patch(subject.slide, subject.label == _TUMOR, self._features_of(read_rgb(pair.high)))
            for pair in self._labelled
            if (subject := pair.subject).label in (_TUMOR, _NORMAL) and subject.slide
        ]
