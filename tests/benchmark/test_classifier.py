"""The classifier: what fine-tuning learns, and what is said of enlarged images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import accuracy_score, roc_auc_score

from slidesr.benchmark.judges.classifier import (
    ClassifierRecipe,
    Classifiers,
    _network,
    fine_tuned,
)
from slidesr.benchmark.judges.downstream import classifier_figures, classifier_rows
from slidesr.benchmark.judges.labels import Example, plan_lessons
from slidesr.benchmark.pairs import ImagePair, find_pairs
from slidesr.benchmark.results import Subject
from slidesr.benchmark.statistics import resamples
from slidesr.cli import run as run_cli
from slidesr.errors import RefusedError
from slidesr.slide.image_files import read_rgb

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]

QUICK = ClassifierRecipe(seeds=2, epochs=4, batch=8)


def tissue(is_tumor: bool, seed: int, side_px: int = 72) -> U8:
    """Coarse dark spots in tumour, fine ones in normal tissue, on a pink of the slide's own."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(side_px, side_px)), 4 if is_tumor else 1)
    pink = np.array([225, 170, 200]) + rng.integers(-15, 15, 3)
    image = np.where((noise > noise.std())[..., None], (90, 60, 140), pink)
    return (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, save_images: Save) -> list[ImagePair]:
    """Three slides of eight patches."""
    images = {
        f"s{slide}/{label}{number}.png": tissue(label == "tumor", 100 * slide + number)
        for slide in (1, 2, 3)
        for number in range(8)
        for label in (("normal", "tumor")[number % 2],)
    }
    folder = save_images(tmp_path_factory.mktemp("labelled"), images)
    rows = [f"d,{name[:2]},{'tumor' if 'tumor' in name else 'normal'},{name}" for name in images]
    (folder / "list.csv").write_text("dataset,slide,label,file\n" + "\n".join(rows) + "\n")
    return find_pairs(folder / "list.csv")


@pytest.fixture(scope="module")
def classifiers(pairs: list[ImagePair]) -> Classifiers:
    made = Classifiers(plan_lessons(pairs, []), QUICK)
    told: list[tuple[int, int]] = []
    made.train(range(len(pairs)), lambda done, total: told.append((done, total)))
    assert told == [(0, 6), (1, 6), (2, 6), (2, 6), (3, 6), (4, 6), (4, 6), (5, 6), (6, 6)]
    return made


def read(pair: ImagePair) -> U8:
    return read_rgb(pair.high)


def test_slides_that_were_left_out_are_told_apart(
    pairs: list[ImagePair], classifiers: Classifiers
) -> None:
    said = np.stack([classifiers.probabilities(i, [read(p)])[:, 0] for i, p in enumerate(pairs)])
    truth = [pair.subject.label == "tumor" for pair in pairs]
    for of_seed in said.T:
        assert roc_auc_score(truth, of_seed) > 0.95
    assert (np.ptp(said, axis=1) > 0).all()  # seeds differ


def test_images_of_any_size_are_judged_alone_as_in_a_row(
    pairs: list[ImagePair], classifiers: Classifiers
) -> None:
    image, other = tissue(True, 5, 300), tissue(False, 6, 300)
    alone = classifiers.probabilities(0, [image])
    assert alone.shape == (2, 1)
    np.testing.assert_allclose(
        classifiers.probabilities(0, [other, image])[:, 1:], alone, rtol=1e-3
    )


def test_a_seed_gives_the_same_classifier_again(pairs: list[ImagePair]) -> None:
    images, labels = [read(pair) for pair in pairs[:8]], [i % 2 == 1 for i in range(8)]
    recipe = replace(QUICK, epochs=1)
    first, again, other = (
        fine_tuned(images, labels, recipe, seed).probabilities(images) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_ten_images_are_enough_for_a_schedule(pairs: list[ImagePair]) -> None:
    images, labels = [read(pair) for pair in pairs[:10]], [i % 2 == 1 for i in range(10)]
    made = fine_tuned(images, labels, QUICK, 0)
    assert np.isfinite(made.probabilities(images)).all()


def test_all_layers_learn_and_norms_keep_their_statistics(pairs: list[ImagePair]) -> None:
    images, labels = [read(pair) for pair in pairs[:8]], [i % 2 == 1 for i in range(8)]
    before, after = _network(QUICK, 0), fine_tuned(images, labels, QUICK, 0)._network
    learnt = after.state_dict()
    changed = {name for name, value in before.state_dict().items() if not value.equal(learnt[name])}
    assert changed == {name for name, _ in before.named_parameters()}


def test_classes_weigh_the_same(pairs: list[ImagePair]) -> None:
    """Ten times as many normal patches do not make it say normal of everything."""
    images = [tissue(number < 3, number) for number in range(33)]
    made = fine_tuned(images, [number < 3 for number in range(33)], QUICK, 0)
    said = made.probabilities([tissue(number < 8, 500 + number) for number in range(16)])
    assert ((said > 0.5) == (np.arange(16) < 8)).mean() > 0.9


def test_small_images_are_no_lesson(tmp_path: Path, save_images: Save) -> None:
    folder = save_images(tmp_path, {"a.png": tissue(True, 0, 32)})
    path = folder / "a.png"
    tested = [
        ImagePair(Subject("a", "d", slide, label), path)
        for slide in "ab"
        for label in ("tumor", "normal")
    ]
    with pytest.raises(RefusedError, match=r"a\.png.*at least 64 px"):
        Classifiers(plan_lessons(tested, []), QUICK).train([0], lambda done, total: None)


# Figures


def made_up(seeds: int = 5, images: int = 12) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    truth = np.arange(images) % 3 == 0
    return truth, np.round(0.4 * truth + 0.6 * rng.random((2, seeds, images)), 1)  # with ties


def test_figures_are_means_of_those_of_each_seed() -> None:
    truth, (high, output) = made_up()
    found = classifier_figures(truth, high, output, resamples([""] * 12))
    levels = np.quantile(high, 1 - truth.mean(), axis=1)
    rows = list(zip(high, output, levels, strict=True))
    expected = {
        "accuracy": [accuracy_score(truth, o > level) for _, o, level in rows],
        "auc": [roc_auc_score(truth, o) for o in output],
        "agreement": [np.mean((o > level) == (h > level)) for h, o, level in rows],
        "shift": [np.mean(np.abs(o - h)) for h, o, _ in rows],
    }
    for name, by_seed in expected.items():
        assert found[name].value == pytest.approx(np.mean(by_seed))
        np.testing.assert_allclose(found[name].seeds, by_seed)  # type: ignore[arg-type]


def test_resampled_figures_are_those_of_the_images_drawn() -> None:
    truth, (high, output) = made_up()
    drawn = resamples([""] * 12)
    found = classifier_figures(truth, high, output, drawn)
    for row in range(20):
        chosen = np.repeat(np.arange(12), drawn.counts[row].astype(int))
        if len({*truth[chosen].tolist()}) == 2:
            auc = np.mean([roc_auc_score(truth[chosen], each[chosen]) for each in output])
            assert found["auc"].drawn is not None
            assert found["auc"].drawn[row] == pytest.approx(auc)
        shift = np.abs(output - high).mean(axis=0)[chosen].mean()
        assert found["shift"].drawn is not None
        assert found["shift"].drawn[row] == pytest.approx(shift)


def test_rows_tell_interval_units_and_spread() -> None:
    truth, (high, output) = made_up()
    tested = {
        10 + i: Example(ImagePair(Subject(f"{i}", "d", f"s{i % 6}"), Path()), "tumor or normal", t)
        for i, t in enumerate(truth.tolist())
    }
    shown = np.stack([high, output, high], axis=-1).astype(np.float32)
    rows = classifier_rows(4, ["ours"], tested, {10 + i: shown[:, i] for i in range(12)})
    by_key = {(row.method, row.metric): row for row in rows}
    assert [row.method for row in rows[::4]] == ["high resolution", "low resolution", "ours"]
    agreement = by_key["ours", "agreement"]
    assert (agreement.value, agreement.low, agreement.high, agreement.seed_sd) == (1, 1, 1, 0)
    low = by_key["low resolution", "auc"]
    assert (low.n, low.unit, low.units) == (12, "slide", 6)
    assert low.low is not None
    assert low.value is not None
    assert low.high is not None
    assert low.low < low.value < low.high
    assert low.seed_sd == pytest.approx(np.std([roc_auc_score(truth, o) for o in output], ddof=1))


# The command


def test_the_command_refuses_images_without_labels(
    tmp_path: Path, save_images: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_images(tmp_path / "images", {"a.png": tissue(True, 0)})
    arguments = ["benchmark", str(folder), "--scale", "2", "-o", str(tmp_path / "out")]
    assert run_cli([*arguments, "--downstream"]) == 2
    assert "images of both labels" in " ".join(capsys.readouterr().err.split())
    assert run_cli([*arguments, "--seeds", "3"]) == 2
    assert "--seeds is of use with --downstream only" in capsys.readouterr().err
    assert run_cli([*arguments, "--labelled", str(folder)]) == 2
    assert not (tmp_path / "out" / "results.json").exists()
