"""Models that belong together: which they are, and what is said of their difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slidesr.benchmark.methods import Method
from slidesr.benchmark.model_pairs import Relation, pair_rows, pairs_md, relations, verdict
from slidesr.benchmark.results import PairRow, Subject
from slidesr.benchmark.statistics import estimate, paired_p


def method(name: str, **facts: Any) -> Method:
    return Method(name, lambda low: low, {"model": name, **facts})


def summed_up(methods: list[Method]) -> list[tuple[str, str, str]]:
    return [(each.method, each.other, each.name) for each in relations(methods)]


def test_a_model_belongs_with_its_start_and_with_the_one_it_ablates() -> None:
    methods = [
        Method("bicubic", lambda low: low, {"kind": "classical"}),
        method("gan", stage="gan", start="fidelity"),
        method("plain", stage="gan", start="fidelity", ablates="gan"),
        method("fidelity", stage="fidelity", start="of another scale"),
        method("finer", stage="fidelity", start="fidelity"),
    ]
    assert summed_up(methods) == [
        ("gan", "fidelity", "GAN stage against its start"),
        ("plain", "fidelity", "GAN stage without critic against its start"),
        ("gan", "plain", "with critic against without"),
        ("finer", "fidelity", "model against its start"),
    ]
    for each in relations(methods):
        assert [methods[index].name for index in each.indices] == [each.method, each.other]


def test_models_whose_others_are_not_compared_belong_with_none() -> None:
    assert not relations([method("gan", start="fidelity"), method("plain", ablates="critic's")])


def test_only_models_of_one_tolerance_and_no_perception_belong_together() -> None:
    fidelity, gan = {"model": "fidelity"}, {"model": "gan", "start": "fidelity"}
    methods = [
        method("gan, perception 0.5", **gan, perception=0.5),
        method("gan, consistent", **gan, tolerance=0.0),
        method("fidelity", **fidelity),
        method("fidelity, consistent", **fidelity, tolerance=0.0),
        method("fidelity, perception 0.2", **fidelity, perception=0.2),
    ]
    assert [(each.method, each.other) for each in relations(methods)] == [
        ("gan, consistent", "fidelity, consistent")
    ]


def test_an_ensemble_belongs_with_its_single_pass() -> None:
    fidelity, gan = {"model": "fidelity"}, {"model": "gan", "start": "fidelity"}
    methods = [
        method("gan", **gan),
        method("gan + ensemble", **gan, ensemble="8 passes"),
        method("gan + ensemble, consistent", **gan, ensemble="8 passes", tolerance=0.0),
        method("fidelity", **fidelity),
    ]
    assert summed_up(methods) == [
        ("gan", "fidelity", "model against its start"),
        ("gan + ensemble", "gan", "ensemble against a single pass"),
    ]


def test_what_the_loss_network_of_one_of_both_judged_is_marked() -> None:
    loss = {"loss networks": ["EfficientNet-Lite0"]}
    (related,) = relations([method("gan", start="fidelity", **loss), method("fidelity")])
    metrics = {"ssim": [0.5] * 11, "distance_lite0": [1.0] * 11, "distance_lite2": [1.0] * 11}
    found = pair_rows(
        4, SUBJECTS, related, dict.fromkeys(("gan", "fidelity"), metrics), np.ones(11)
    )
    assert {row.metric for row in found if row.own_loss} == {"distance_lite0"}


@pytest.mark.parametrize(
    ("agreement_db", "said"),
    [
        (50.0, "the two outputs agree to 50.0 dB: the critic has no visible effect"),
        (49.9, "the two outputs agree to 49.9 dB: the critic has a faint effect"),
        (31.6, "the two outputs agree to 31.6 dB: the critic changes the image"),
    ],
)
def test_what_an_agreement_means_is_said_in_words(agreement_db: float, said: str) -> None:
    assert verdict(agreement_db, "the critic") == said


SUBJECTS = [
    *(Subject(f"a{i}", "a", f"s{i // 4}") for i in range(8)),
    *(Subject(f"b{i}", "b") for i in range(3)),
]
RELATION = Relation("gan", "fidelity", "GAN stage against its start", "the GAN stage", (1, 0))


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, list[float]]]:
    rng = np.random.default_rng(0)
    return {name: {"ssim": rng.random(11).tolist()} for name in ("fidelity", "gan")}


@pytest.fixture(scope="module")
def rows(scores: dict[str, dict[str, list[float]]]) -> list[PairRow]:
    return pair_rows(4, SUBJECTS, RELATION, scores, np.arange(45.0, 56.0))


def test_differences_are_paired_by_image_and_by_slide(
    rows: list[PairRow], scores: dict[str, dict[str, list[float]]]
) -> None:
    assert [(row.data, row.unit, row.n) for row in rows] == [
        ("a", "image", 8),
        ("a", "slide", 2),
        ("b", "image", 3),
    ]
    these, those = (np.array(scores[name]["ssim"]) for name in ("gan", "fidelity"))
    by_image, by_slide, of_b = rows
    told = estimate((these - those)[:8])
    assert (by_image.difference, by_image.low, by_image.high) == (told.mean, told.low, told.high)
    assert by_image.p == paired_p(these[:8], those[:8])
    slides = [np.mean((these - those)[:4]), np.mean((these - those)[4:8])]
    assert by_slide.difference == pytest.approx(np.mean(slides))
    assert by_slide.p is None
    assert of_b.difference == pytest.approx(np.mean((these - those)[8:]))


def test_agreement_is_that_of_the_images_of_a_data_set(rows: list[PairRow]) -> None:
    of_a, _, of_b = rows
    assert (of_a.agreement_mean_db, of_a.agreement_max_db) == (48.5, 52)
    assert (of_b.agreement_mean_db, of_b.agreement_max_db) == (54, 55)
    assert "a faint effect" in of_a.verdict
    assert "no visible effect" in of_b.verdict


def test_the_table_has_one_line_for_a_pair_and_data_set(rows: list[PairRow]) -> None:
    lines = pairs_md(rows).splitlines()
    assert sum(line.startswith("| x4, a |") for line in lines) == 1
    (of_b,) = [line for line in lines if line.startswith("| x4, b |")]
    assert "gan, fidelity | 54.0, at most 55.0 |" in of_b
    assert pairs_md([]) == ""
