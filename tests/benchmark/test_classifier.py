"""The tumour/normal classifier: what it learns, and what it says of enlarged images."""

from __future__ import annotations

import numpy as np
import pytest

from slidesr.benchmark.judges.downstream import (
    Classifier,
    Patch,
    classifier_scores,
    classifiers_by_slide,
)
from slidesr.errors import RefusedError


def patches(count: int, slide: str = "s", seed: int = 0) -> list[Patch]:
    """Tumour lies 6 to one side on the first of eight features."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        features = rng.normal(size=8)
        features[0] += 6 * (index % 2)
        made.append(Patch(slide, bool(index % 2), features))
    return made


def test_it_learns_what_sets_them_apart() -> None:
    classifier = Classifier(patches(40))
    for patch in patches(40, seed=1):
        assert (classifier.probability(patch.features) > 0.5) == patch.is_tumor


def test_the_same_patches_give_the_same_classifier() -> None:
    first, second = Classifier(patches(20)), Classifier(patches(20))
    (patch,) = patches(1, seed=1)
    assert first.probability(patch.features) == second.probability(patch.features)


def test_classes_weigh_the_same() -> None:
    """Ten times as many normal patches do not make it say normal of everything."""
    normals = [
        patch for seed in range(10) for patch in patches(20, seed=seed) if not patch.is_tumor
    ]
    tumors = [patch for patch in patches(20) if patch.is_tumor]
    classifier = Classifier([*normals, *tumors])
    unseen = patches(40, seed=99)
    said = [classifier.probability(patch.features) > 0.5 for patch in unseen]
    assert said == [patch.is_tumor for patch in unseen]


def test_one_class_alone_teaches_nothing() -> None:
    with pytest.raises(RefusedError, match="labelled tumor and patches labelled normal"):
        Classifier([patch for patch in patches(10) if patch.is_tumor])


def test_no_slide_is_judged_by_what_it_taught() -> None:
    """Slide b's labels are turned round: its own patches would teach the opposite."""
    a = patches(20, "a")
    b = [Patch("b", not patch.is_tumor, patch.features) for patch in patches(20, seed=1)]
    found = classifiers_by_slide(["a", "b", "b"], [*a, *b])
    assert sorted(found) == ["a", "b"]
    tumor = a[1].features
    assert found["b"].probability(tumor) > 0.5 > found["a"].probability(tumor)
    assert classifiers_by_slide(["a"], a) == {}


def test_scores_are_those_of_a_direct_count() -> None:
    truth = [True, True, False, False]
    high = [0.9, 0.6, 0.5, 0.1]
    made = [0.8, 0.4, 0.6, 0.2]
    scores = classifier_scores(truth, high, made)
    level = 0.55  # half of the true images lie above
    decided = [p > level for p in made]
    assert scores["accuracy"] == np.mean([d == t for d, t in zip(decided, truth, strict=True)])
    assert scores["agreement"] == np.mean(
        [d == (p > level) for d, p in zip(decided, high, strict=True)]
    )
    assert scores["shift"] == pytest.approx((0.1 + 0.2 + 0.1 + 0.1) / 4)
    pairs = [(a > b) + (a == b) / 2 for a in made[:2] for b in made[2:]]
    assert scores["AUC"] == np.mean(pairs)


def test_the_high_resolution_agrees_with_itself() -> None:
    scores = classifier_scores([True, False, False], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1])
    assert (scores["agreement"], scores["shift"], scores["accuracy"]) == (1, 0, 1)


def test_one_class_has_no_auc() -> None:
    assert classifier_scores([True, True], [0.7, 0.6], [0.7, 0.6])["AUC"] is None
