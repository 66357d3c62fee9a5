"""The perceptual network's training: views, loss, the run and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.weights import (
    read_encoder,
)
from slidesr.nets.encoder import Encoder, EncoderSpec
from slidesr.train.encoder.export import encoder_card, write_encoder
from slidesr.train.encoder.scores import score_encoder
from slidesr.train.encoder.training import EncoderProgress, EncoderRecipe, info_nce, train_encoder
from slidesr.train.encoder.views import ViewSampler, ViewsRecipe, degraded

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]

TINY = EncoderSpec((8, 16, 24))
VIEWS = ViewsRecipe(crop_px=24, shift_px=8, weights={"a": 2.0})
RECIPE = EncoderRecipe(
    "tiny", TINY, patches=24, batch=4, warmup=4, ema=0.5, validate_every=8, views=VIEWS
)


@pytest.fixture(scope="module")
def patch(section: U8) -> U8:
    return section[200:296, 300:396]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, save_images: Save, section: U8) -> Path:
    images = {"a/1.png": section[:64, :80], "b/2.png": section[200:256, 300:372]}
    return save_images(tmp_path_factory.mktemp("data"), images)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory, save_images: Save, section: U8) -> Path:
    images = {"a/1.png": section[:100, 100:200], "a/2.png": section[300:400, :97]}
    return save_images(tmp_path_factory.mktemp("valid"), images)


# Views


def test_a_view_is_drawn_by_its_generator(data: Path) -> None:
    sampler = ViewSampler(data, VIEWS)
    one, same = (sampler.draw(4, np.random.default_rng(1)) for _ in range(2))
    other = sampler.draw(4, np.random.default_rng(2))
    assert torch.equal(one.first, same.first)
    assert torch.equal(one.degraded, same.degraded)
    assert not torch.equal(one.first, other.first)
    assert one.second.shape == (4, 3, 24, 24)
    assert one.second.min() >= 0
    assert one.second.max() <= 1


def test_a_degraded_view_is_like_its_own_alone(data: Path) -> None:
    views = ViewSampler(data, VIEWS).draw(8, np.random.default_rng(0))
    assert (views.second != views.degraded).flatten(1).any(1).all()
    error = (views.second[:, None] - views.degraded[None]).square().mean((2, 3, 4))
    assert (error.argmin(1) == torch.arange(8)).all()


@pytest.mark.parametrize("kind", ["blur", "shrink", "noise", "jpeg"])
def test_degrading_leaves_the_image_alone(kind: str, patch: U8) -> None:
    before = patch.copy()
    worse = degraded(patch, kind, 8, np.random.default_rng(0))
    assert worse.shape == patch.shape
    assert worse.dtype == np.uint8
    assert 1 < np.abs(worse.astype(int) - patch).mean() < 40
    np.testing.assert_array_equal(patch, before)


def test_an_unknown_degradation_is_refused(patch: U8) -> None:
    with pytest.raises(ValueError, match="sharpen"):
        degraded(patch, "sharpen", 1, np.random.default_rng(0))


@pytest.mark.parametrize(("weights", "named"), [({"a": -1.0}, "negative"), ({"a": 0.0}, "zero")])
def test_weights_that_draw_nothing_are_refused(
    weights: dict[str, float], named: str, tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a/1.png": section[:40, :40]})
    with pytest.raises(RefusedError, match=named):
        ViewSampler(folder, replace(VIEWS, weights=weights))


def test_an_image_too_small_for_its_views_is_refused(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a/1.png": section[:40, :31]})
    with pytest.raises(RefusedError, match=r"1\.png.*32 px"):
        ViewSampler(folder, VIEWS)


# Training


def test_info_nce_is_what_the_paper_says() -> None:
    """Against the sum over every pair, written out."""
    first, second, degraded = torch.randn(3, 3, 5, dtype=torch.float64)
    views, copies = [*first, *second], [*degraded]
    losses, rights = [], []
    for i, anchor in enumerate(views):
        partner = (i + 3) % 6
        likeness = {
            f"{kind} {j}": math.exp(float(torch.cosine_similarity(anchor, key, dim=0)) / 0.3)
            for kind, keys in (("view", views), ("copy", copies))
            for j, key in enumerate(keys)
            if (kind, j) != ("view", i)
        }
        losses.append(-math.log(likeness[f"view {partner}"] / sum(likeness.values())))
        rights.append(max(likeness, key=lambda name: likeness[name]) == f"view {partner}")
    loss, right = info_nce(first, second, degraded, temperature=0.3)
    assert loss.item() == pytest.approx(sum(losses) / 6)
    assert right.item() == pytest.approx(sum(rights) / 6)


def test_partners_that_are_alike_are_right() -> None:
    first = torch.eye(4)
    loss, right = info_nce(first, first, -first, temperature=0.1)
    assert right.item() == 1
    assert loss.item() == pytest.approx(math.log(1 + 6 * math.exp(-10) + 3 * math.exp(-10)), 0.1)
    loss, right = info_nce(first, -first, first, temperature=0.1)
    assert right.item() == 0
    assert loss.item() > 15


class Stopped(Exception):
    """Stands for a killed process."""


def stop_after(patches: int) -> Callable[[EncoderProgress], None]:
    def report(now: EncoderProgress) -> None:
        if now.patches >= patches:
            raise Stopped

    return report


def test_a_resumed_run_gives_the_weights_of_one_never_stopped(
    data: Path, valid: Path, tmp_path: Path
) -> None:
    seen: list[EncoderProgress] = []
    whole = train_encoder(RECIPE, data, valid, tmp_path / "whole", seen.append)
    assert [now.patches for now in seen] == [8, 16, 24]
    assert all(now.loss > 0 and 0 <= now.right <= 1 for now in seen)
    with pytest.raises(Stopped):
        train_encoder(RECIPE, data, valid, tmp_path / "parts", stop_after(8))
    with pytest.raises(Stopped):
        train_encoder(RECIPE, data, valid, tmp_path / "parts", stop_after(16))
    parts = train_encoder(RECIPE, data, valid, tmp_path / "parts", seen.append)
    assert seen[-1].patches == parts.patches == 24
    ours, theirs = whole.encoder.state_dict(), parts.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    torch.manual_seed(RECIPE.seed)
    start = Encoder(TINY).state_dict()
    assert not any(torch.equal(ours[name], start[name]) for name in ours)


def test_training_teaches(data: Path, valid: Path, tmp_path: Path) -> None:
    seen: list[EncoderProgress] = []
    still = replace(VIEWS, shift_px=0, stain_jitter=0.0)  # turned and mirrored only
    recipe = replace(RECIPE, patches=600, batch=8, validate_every=200, learning_rate=1e-2)
    train_encoder(replace(recipe, views=still), data, valid, tmp_path, seen.append)
    assert seen[-1].loss < 0.85 * seen[0].loss
    assert seen[-1].right > max(0.4, seen[0].right)  # one in 23 by chance


def test_a_loss_that_is_no_number_stops_the_run(data: Path, valid: Path, tmp_path: Path) -> None:
    with pytest.raises(SlidesrError, match="not finite"):
        train_encoder(replace(RECIPE, learning_rate=1e30), data, valid, tmp_path, stop_after(99))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_scores_are_the_same_twice_and_know_what_is_monotone(valid: Path) -> None:
    encoder = Encoder(TINY)
    scores = score_encoder(encoder, valid, VIEWS)
    assert scores == score_encoder(encoder, valid, VIEWS)
    assert scores.retrieval in (0, 0.5, 1)
    assert scores.shift_distance > 0
    rows = dict(scores.distance)
    rows["blur"] = {"0.5": 1.0, "1": 2.0}
    assert replace(scores, distance={"blur": rows["blur"]}).is_monotone
    rows["jpeg"] = {"80": 1.0, "50": 0.9}
    assert not replace(scores, distance=rows).is_monotone


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"name": ""},
        {"batch": 1},
        {"patches": 3},
        {"validate_every": 3},
        {"temperature": 0.0},
        {"learning_rate": -1.0},
        {"clip_norm": 0.0},
        {"ema": 1.0},
        {"warmup": -1},
        {"encoder": EncoderSpec((8,) * 6)},
    ],
    ids=str,
)
def test_an_absurd_recipe_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(RECIPE, **change)


@pytest.mark.parametrize(
    "change", [{"crop_px": 25}, {"crop_px": 0}, {"shift_px": -1}, {"stain_jitter": 1.0}], ids=str
)
def test_absurd_views_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(VIEWS, **change)


def test_a_finished_run_becomes_a_file_with_its_card(
    data: Path, valid: Path, tmp_path: Path
) -> None:
    trained = train_encoder(RECIPE, data, valid, tmp_path / "run", lambda now: None)
    scores = score_encoder(trained.encoder, valid, VIEWS)
    path = write_encoder(tmp_path / "models", RECIPE, data, trained, scores)
    header, encoder = read_encoder(path)
    assert header.training["patches"] == 24
    assert header.scores == asdict(scores)
    assert all(map(torch.equal, encoder.parameters(), trained.encoder.parameters()))
    text = path.with_suffix(".md").read_text()
    assert text == encoder_card(header, sha256(path.read_bytes()).hexdigest())
    for fact in ("24 patches", "8, 16, 24 channels", "Not for diagnosis", "sigma 0.5 px"):
        assert fact in text
