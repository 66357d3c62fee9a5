"""Who learns from whom: no slide or patient on both sides, and tasks kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesr.benchmark.judges.labels import Plan, examples_of, plan_lessons
from slidesr.benchmark.pairs import ImagePair, find_pairs
from slidesr.benchmark.results import Subject
from slidesr.errors import RefusedError

LABELS = ("tumor", "normal")


def pair(slide: str, label: str, number: int = 0, data: str = "d") -> ImagePair:
    name = f"{data}/{slide}-{label}-{number}.png"
    return ImagePair(Subject(name, data, slide, label), Path(name))


def both(slide: str, labels: tuple[str, str] = LABELS, data: str = "d") -> list[ImagePair]:
    return [pair(slide, label, number, data) for number in range(2) for label in labels]


def learnt(plan: Plan, index: int) -> set[str]:
    """The slides that an image's classifiers learn from, as they were given."""
    return {each.pair.subject.slide for each in plan.lessons[plan.lesson_of[index]].examples}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["14-1", "14-1A", "14-1CD", "14-2", "14-3E", "14-4", "14-5", "14-6"]),
            st.sampled_from(["benign", "malignant"]),
        ),
        min_size=4,
        max_size=40,
    )
)
def test_no_patient_teaches_and_is_judged(images: list[tuple[str, str]]) -> None:
    """Reference: by names, letters removed, of every image against all that it is judged by."""
    pairs = [pair(slide, label, number) for number, (slide, label) in enumerate(images)]
    try:
        plan = plan_lessons(pairs, [])
    except RefusedError:
        return
    for index in plan.lesson_of:
        patient = images[index][0].rstrip("ABCDEFG")
        taught = {slide.rstrip("ABCDEFG") for slide in learnt(plan, index)}
        assert patient not in taught
        assert {each.is_positive for each in plan.lessons[plan.lesson_of[index]].examples} == {
            True,
            False,
        }
    assert len(plan.lessons) <= 5


def test_up_to_five_slides_are_left_out_one_by_one() -> None:
    slides = ["a", "b", "c", "d"]
    plan = plan_lessons([each for slide in slides for each in both(slide)], [])
    assert [learnt(plan, 4 * place) for place in range(4)] == [
        {*slides} - {slide} for slide in slides
    ]


def test_many_slides_cost_five_lessons() -> None:
    slides = [f"s{number}" for number in range(23)]
    plan = plan_lessons([each for slide in slides for each in both(slide)], [])
    assert len(plan.lessons) == 5
    assert len(plan.lesson_of) == 92


def test_slides_of_other_images_need_one_lesson_of_all_that_is_labelled() -> None:
    labelled = [*both("a"), *both("b")]
    plan = plan_lessons([*both("c"), *both("e")], labelled)
    assert len(plan.lessons) == 1
    assert learnt(plan, 0) == {"a", "b"}


def test_a_slide_on_both_sides_is_left_out_where_it_is_judged() -> None:
    plan = plan_lessons([*both("a"), *both("c")], [*both("a"), *both("b")])
    assert learnt(plan, 0) == {"b"}
    assert learnt(plan, 4) == {"a", "b"}


def test_two_pairs_of_labels_are_two_tasks() -> None:
    others = ("malignant", "benign")
    pairs = [*both("a"), *both("b"), *both("14-1", labels=others), *both("14-2", labels=others)]
    plan = plan_lessons(pairs, [])
    assert learnt(plan, 0) == {"b"}
    assert learnt(plan, 8) == {"14-2"}


def test_a_data_set_learns_from_itself_where_it_can() -> None:
    labelled = [*both("a", data="x"), *both("b", data="y")]
    assert learnt(plan_lessons(both("c", data="x"), labelled), 0) == {"a"}
    assert learnt(plan_lessons(both("c", data="z"), labelled), 0) == {"a", "b"}


def test_spellings_and_unknown_slides() -> None:
    pairs = [
        pair("a", "Tumour"),
        pair("a", "cancer"),
        pair("a", "Normal"),
        pair("a", "tumour region"),
        pair("unknown (renumbered)", "tumor"),
        pair("", "normal"),
    ]
    found = examples_of(pairs)
    assert {index: each.is_positive for index, each in found.items()} == {
        0: True,
        1: True,
        2: False,
    }


def test_patients_and_labels_are_read_from_names_of_breakhis(tmp_path: Path) -> None:
    names = ("SOB_B_TA-14-22549AB-400-019", "SOB_M_DC-14-2523-40-001", "SOB_B_A-14-22549G-400-02")
    for name in names:
        (tmp_path / f"{name}.png").touch()
    found = examples_of(find_pairs(tmp_path))
    assert [(each.group, each.is_positive) for each in found.values()] == [
        ("14-22549", False),
        ("14-22549", False),
        ("14-2523", True),
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [pair("a", ""), pair("b", "")],
        [pair("a", "tumor"), pair("b", "tumor")],
        both("a"),  # nothing else to learn from
        [pair("a", "tumor"), pair("b", "normal")],  # each without an example of its own
        [pair("a", "tumor"), pair("b", "benign")],  # two tasks, half of each
    ],
)
def test_what_cannot_be_judged_is_refused(pairs: list[ImagePair]) -> None:
    with pytest.raises(RefusedError, match=r"images of both labels.*--nuclei"):
        plan_lessons(pairs, [])


def test_a_data_set_that_cannot_be_judged_is_named(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [*both("a"), *both("b"), pair("c", "tumor", data="lonely")]
    plan = plan_lessons(pairs, [])
    assert sorted(plan.lesson_of) == list(range(8))
    assert "lonely, tumor or normal: not judged" in caplog.text


def test_folds_hold_both_labels_alike() -> None:
    """20 slides of one label each: no fold teaches much more of one label than of the other."""
    pairs = [pair(f"s{n}", LABELS[n % 2], k) for n in range(20) for k in range(3)]
    for lesson in plan_lessons(pairs, []).lessons:
        assert np.mean([each.is_positive for each in lesson.examples]) == pytest.approx(0.5)
