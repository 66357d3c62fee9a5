"""The comparison of methods: each number against a direct computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slidesr import metrics
from slidesr.benchmark.suite import Score, score, score_folder
from slidesr.card import card, score_table
from slidesr.errors import RefusedError
from slidesr.model import Model
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.perceptual import Eye
from slidesr.resample import back_projected, bicubic_down, bicubic_up
from slidesr.weights import ModelSpec

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]
Scores = dict[str, dict[str, dict[str, float]]]

TINY = GeneratorSpec(2, "weight", 8, bicubic_skip=True, channels=8, blocks=1)
METHODS = ["bicubic", "bicubic + back-projection", "tiny"]


@pytest.fixture(scope="module")
def images(section: U8) -> dict[str, U8]:
    return {
        "a/1.png": section[:176, :176],
        "a/below/2.png": section[200:377, 100:275],  # odd sides: cut to the scale
        "b/1.png": section[300:476, 330:506],
    }


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, save_images: Save, images: dict[str, U8]
) -> Path:
    return save_images(tmp_path_factory.mktemp("images"), images)


@pytest.fixture(scope="module")
def model(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
    trained_looking: Callable[[GeneratorSpec], Generator],
) -> Model:
    return Model(model_spec(TINY), trained_looking(TINY), "")


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    """What was reported while `scores` were made."""
    return []


@pytest.fixture(scope="module")
def scores(folder: Path, model: Model, told: list[tuple[int, int]]) -> Scores:
    return score_folder(folder, 2, [model], lambda done, total: told.append((done, total)))


def test_every_method_has_every_metric_on_every_data_set(scores: Scores) -> None:
    assert list(scores) == ["a", "b"]
    for methods in scores.values():
        assert list(methods) == METHODS
        for values in methods.values():
            assert list(values) == ["psnr_db", "ssim", "ms_ssim", "qilv", "distance", "fid"]
            assert all(type(value) is float for value in values.values())


def test_progress_is_told_image_by_image(scores: Scores, told: list[tuple[int, int]]) -> None:
    assert scores
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_score_is_the_mean_over_images(
    scores: Scores, images: dict[str, U8], model: Model
) -> None:
    enlarge: list[Callable[[U8], U8]] = [
        lambda low: bicubic_up(low, 2),
        lambda low: back_projected(low, 2),
        model.enlarge,
    ]
    for data in "ab":
        highs = [
            np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            for name, image in images.items()
            if name.startswith(data)
        ]
        for method, function in zip(METHODS, enlarge, strict=True):
            pairs = [(function(bicubic_down(high, 2)), high) for high in highs]
            expected = {
                "psnr_db": np.mean([metrics.psnr_db(*pair) for pair in pairs]),
                "ssim": np.mean([metrics.ssim(*pair) for pair in pairs]),
                "ms_ssim": np.mean([metrics.ms_ssim(*pair) for pair in pairs]),
                "qilv": np.mean([metrics.qilv(*pair) for pair in pairs]),
                "distance": np.mean([Eye().distance(*pair) for pair in pairs]),
            }
            means = {key: scores[data][method][key] for key in expected}
            assert means == pytest.approx(expected, rel=1e-6)


def test_back_projection_beats_bicubic(scores: Scores) -> None:
    for methods in scores.values():
        assert methods["bicubic + back-projection"]["psnr_db"] > methods["bicubic"]["psnr_db"]


def test_score_names_its_metrics(images: dict[str, U8]) -> None:
    image, reference, eye = images["a/1.png"], images["b/1.png"], Eye()
    made = score(image, reference, eye)
    assert made == Score(
        metrics.psnr_db(image, reference),
        metrics.ssim(image, reference),
        metrics.ms_ssim(image, reference),
        metrics.qilv(image, reference),
        eye.distance(image, reference),
    )
    assert len(set(asdict(made).values())) == 5


def test_the_frechet_distance_is_that_of_all_tiles(scores: Scores, images: dict[str, U8]) -> None:
    eye = Eye()
    image = images["b/1.png"]
    made = bicubic_up(bicubic_down(image, 2), 2)
    expected = metrics.frechet(eye.embeddings(made), eye.embeddings(image))
    assert scores["b"]["bicubic"]["fid"] == pytest.approx(expected, rel=1e-6)
    assert eye.embeddings(image).shape == (2 * 2, 256)  # 176 px: two whole tiles of 64 px a side


def test_images_beside_the_folders_are_a_data_set_too(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path / "loose", {"1.png": section[:168, :168]})
    assert list(score_folder(folder, 8, [], lambda done, total: None)) == ["loose"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no images"):
        score_folder(tmp_path, 2, [], lambda done, total: None)


def test_an_image_too_small_for_the_metrics_is_refused(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"small.png": section[:160, :200]})
    with pytest.raises(RefusedError, match=r"small\.png"):
        score_folder(folder, 2, [], lambda done, total: None)


def test_a_model_of_another_scale_is_refused(folder: Path, model: Model) -> None:
    with pytest.raises(RefusedError, match=r"tiny.*x2.*x4"):
        score_folder(folder, 4, [model], lambda done, total: None)


def test_two_models_of_one_name_are_refused(folder: Path, model: Model) -> None:
    with pytest.raises(RefusedError, match="tiny"):
        score_folder(folder, 2, [model, model], lambda done, total: None)


# The table


def values(psnr_db: float, ssim: float, ms_ssim: float, qilv: float) -> dict[str, float]:
    return {"psnr_db": psnr_db, "ssim": ssim, "ms_ssim": ms_ssim, "qilv": qilv}


def test_the_table_marks_the_best_of_each_data_set() -> None:
    table = score_table(
        {
            "a": {
                "bicubic": values(20.5, 0.5, 0.75, 0.25),
                "ours": values(21.25, 0.625, 0.5, 0.25),
            },
            "b": {"bicubic": values(9, 0.1, 0.1, 0.1)},
        }
    )
    assert table.splitlines() == [
        "| data | method | PSNR (dB) | SSIM | MS-SSIM | QILV |",
        "|---|---|---|---|---|---|",
        "| a | bicubic | 20.50 | 0.5000 | **0.7500** | **0.2500** |",
        "| a | ours | **21.25** | **0.6250** | 0.5000 | **0.2500** |",
        "| b | bicubic | **9.00** | **0.1000** | **0.1000** | **0.1000** |",
    ]


def test_the_card_holds_what_the_header_says(model: Model) -> None:
    text = card(model.spec, "0123abcd")
    for fact in (
        "# tiny\n",
        "x2,\nweight-norm variant, fidelity stage; 8 channels, 1 wide blocks",
        "windows of 8 low-resolution pixels",
        "`0123abcd`",
        "| licence | CC0 |",
        "96 patches, 0 min, a test",
        "0.92-2 um per pixel",
        "**Not for diagnosis.**",
        "- made up: CC0",
        '"loss": "l1"',
        "| a | bicubic | **20.50** |",
    ):
        assert fact in text


def test_a_card_says_that_the_data_are_not_stated() -> None:
    bare = ModelSpec("bare", TINY, "fidelity", (0.9, 2.0), "CC0")
    assert "- not stated" in card(bare, "0123abcd")
