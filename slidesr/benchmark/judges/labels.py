"""Which labelled images teach a classifier, and which classifier may judge an image.

A classifier never judges an image of a slide or patient that it learnt from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from slidesr.benchmark.pairs import ImagePair
from slidesr.errors import RefusedError

TUMOR, MALIGNANT = "tumor or normal", "malignant or benign"
_MEANINGS = {  # label -> task, is positive
    **dict.fromkeys(("tumor", "tumour", "cancer"), (TUMOR, True)),
    "normal": (TUMOR, False),
    "malignant": (MALIGNANT, True),
    "benign": (MALIGNANT, False),
}
_FOLDS = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A labelled image of a known slide or patient."""

    pair: ImagePair
    task: str
    is_positive: bool

    @property
    def data(self) -> str:
        return self.pair.subject.data

    @property
    def group(self) -> str:
        return self.pair.subject.group


@dataclass(frozen=True)
class Lesson:
    """What one classifier, of each seed, learns from."""

    task: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Plan:
    """Which lesson's classifiers judge which image."""

    lessons: tuple[Lesson, ...]
    lesson_of: dict[int, int]  # index of the image -> index of its lesson; others are not judged
    tested: dict[int, Example]  # the same images


def examples_of(pairs: Iterable[ImagePair]) -> dict[int, Example]:
    """Finds the images whose label and slide are known: index -> example."""
    found = {}
    for index, pair in enumerate(pairs):
        meaning = _MEANINGS.get(pair.subject.label.lower())
        if meaning and pair.subject.group:
            found[index] = Example(pair, *meaning)
    return found


def plan_lessons(pairs: Sequence[ImagePair], labelled: Sequence[ImagePair]) -> Plan:
    """Plans lessons from the `labelled` images (`pairs` if empty) for the images of `pairs`.

    A task is one pair of labels of one data set: an image is judged by classifiers taught by its
    own data set if `labelled` has it, otherwise by all data sets that have both labels. Images of a
    slide that is among the labelled are judged with one fold of slides left out: each slide in turn
    if there are at most five, else five folds. Raises RefusedError if no data set can be judged.
    """
    tested = examples_of(pairs)
    teachers = list(examples_of(labelled).values()) if labelled else list(tested.values())
    lessons: dict[Lesson, int] = {}
    lesson_of: dict[int, int] = {}
    for (data, task), indices in tested_sets(tested).items():
        taught = _teachers_of(data, task, teachers)
        chosen = {
            index: lesson
            for index, lesson in _lessons_for(tested, indices, taught).items()
            if _has_both(lesson.examples)
        }
        if _has_both([tested[index] for index in chosen]):
            for index, lesson in chosen.items():
                lesson_of[index] = lessons.setdefault(lesson, len(lessons))
        else:
            _log.warning("%s, %s: not judged: too few slides with these labels", data, task)
    if not lesson_of:
        raise RefusedError(
            "no classifier: it needs images of both labels, tumor and normal or malignant and"
            " benign, of known slides, some to learn from and others to judge. Give label and slide"
            " in manifest.csv, --labelled for the former, or --nuclei, which needs no labels."
        )
    return Plan(tuple(lessons), lesson_of, {index: tested[index] for index in lesson_of})


def tested_sets(tested: Mapping[int, Example]) -> dict[tuple[str, str], list[int]]:
    """Groups images by data set and task: (data, task) -> indices."""
    indices: dict[tuple[str, str], list[int]] = {}
    for index, each in tested.items():
        indices.setdefault((each.data, each.task), []).append(index)
    return indices


def _lessons_for(
    tested: Mapping[int, Example], indices: Sequence[int], taught: Sequence[Example]
) -> dict[int, Lesson]:
    """What the classifiers for each image of one data set would learn from: index -> lesson."""
    fold_of = _folds(taught)
    lessons = {}
    for index in indices:
        fold = fold_of.get(tested[index].group)
        kept = tuple(each for each in taught if fold is None or fold_of[each.group] != fold)
        lessons[index] = Lesson(tested[index].task, kept)
    return lessons


def _teachers_of(data: str, task: str, teachers: Sequence[Example]) -> list[Example]:
    by_data: dict[str, list[Example]] = {}
    for each in teachers:
        if each.task == task:
            by_data.setdefault(each.data, []).append(each)
    sets = {name: each for name, each in by_data.items() if _has_both(each)}
    return sets.get(data) or [each for examples in sets.values() for each in examples]


def _folds(examples: Sequence[Example]) -> dict[str, int]:
    """Assigns each group to a fold: group -> fold."""
    groups = np.array([each.group for each in examples])
    labels = np.array([each.is_positive for each in examples])
    count = len(set(groups.tolist()))
    if count < 2:
        return dict.fromkeys(groups.tolist(), 0)
    fewest = min(int(labels.sum()), int((~labels).sum()))
    few = min(_FOLDS, fewest) < 2 or count <= _FOLDS
    splitter = LeaveOneGroupOut() if few else StratifiedGroupKFold(min(_FOLDS, fewest))
    splits = splitter.split(groups, labels, groups)
    return {group: fold for fold, (_, test) in enumerate(splits) for group in groups[test].tolist()}


def _has_both(examples: Sequence[Example]) -> bool:
    return len({each.is_positive for each in examples}) == 2
