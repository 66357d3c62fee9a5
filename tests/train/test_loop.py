"""The training loop: networks learn, rates and averages move, and a run shows what it does."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.training import GAN, RECIPE, run_alone, same, sources_in, tiny_encoder
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor

from slidesr.errors import RefusedError, SlidesrError
from slidesr.imaging.metrics import psnr_db
from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.train.adversary import Adversary
from slidesr.train.data import PatchSampler
from slidesr.train.loop import Sources, Trained, TrainingProgress
from slidesr.train.objective import Seen
from slidesr.train.recipe import CriticRecipe, OptimizerRecipe, Recipe, learning_rate

U8 = NDArray[np.uint8]
SHORT = replace(RECIPE, patches=12, validate_every=12)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return sources_in(tmp_path_factory.mktemp("training"))


@pytest.fixture
def fresh(sources: Sources, tmp_path: Path) -> Sources:
    """The same images, and nothing at the output."""
    return replace(sources, out=tmp_path / "run")


Finished = tuple[Trained, list[TrainingProgress], Sources]


def finished_run(recipe: Recipe, sources: Sources, out: Path) -> Finished:
    """A run that nothing stopped: what came of it, its reports, its folder."""
    reports: list[TrainingProgress] = []
    own = replace(sources, out=out)
    return run_alone(recipe, own, reports.append), reports, own


@pytest.fixture(scope="module")
def fidelity(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(RECIPE, sources, tmp_path_factory.mktemp("fidelity"))


@pytest.fixture(scope="module")
def gan(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """All losses at once, the perceptual one with a small encoder."""
    out = tmp_path_factory.mktemp("gan")
    encoder = tiny_encoder(out / "encoder.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slidesr.train.objective.find_encoder", lambda: encoder)
        loss = replace(GAN.loss, perceptual_weight=1e-2)
        return finished_run(replace(GAN, loss=loss), sources, out / "run")


def pixels_of(path: Path) -> U8:
    with Image.open(path) as image:
        return np.array(image)


def test_a_run_learns(fidelity: Finished) -> None:
    trained, reports, _ = fidelity
    assert [report.patches for report in reports] == [20, 40, 60]
    assert reports[-1].losses["pixel"] < 0.8 * reports[0].losses["pixel"]
    assert set(reports[0].scores) == {"a", "b"}
    for data, first in reports[0].scores.items():
        assert reports[-1].scores[data]["psnr_db"] > first["psnr_db"]
        assert reports[-1].scores[data]["ssim"] > first["ssim"]
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)
    header = trained.header
    assert (header.patches, header.loss_networks, header.start) == (60, (), "")
    assert not trained.generator.training


def test_a_run_against_a_critic_learns(gan: Finished) -> None:
    trained, reports, _ = gan
    assert reports[-1].losses["pixel"] < 0.8 * reports[0].losses["pixel"]
    assert trained.header.loss_networks == ("histology encoder",)


def test_bicubic_is_scored_as_by_the_protocol(fidelity: Finished) -> None:
    _, reports, own = fidelity
    for data, (height, width) in {"a": (48, 48), "b": (48, 64)}.items():  # whole windows
        high = pixels_of(own.valid / data / "1.png")[:height, :width]
        score = psnr_db(bicubic_up(bicubic_down(high, 2), 2), high)
        assert reports[0].bicubic[data]["psnr_db"] == pytest.approx(score, abs=0.05)


def test_a_run_without_tensorboard_is_refused_before_it_begins(
    fresh: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(RefusedError, match=r"pip install 'slidesr\[train\]'"):
        run_alone(SHORT, fresh)
    assert not fresh.out.exists()


def test_the_curves_are_there_for_tensorboard(gan: Finished) -> None:
    _, reports, own = gan
    events = EventAccumulator(str(own.out / "tensorboard")).Reload()
    scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    steps = {name: [event.step for event in curve] for name, curve in scalars.items()}
    scores = {f"{metric}/{data}" for metric in ("psnr_db", "ssim") for data in "ab"}
    losses = {f"loss/{name}" for name in reports[-1].losses}
    gains = {"gain_db/a", "gain_db/b"}
    of_generator = set(reports[-1].losses) - {"critic", "penalty"}
    gradients = {f"gradient/{name}" for name in of_generator}
    assert set(scalars) == scores | gains | losses | gradients | {"patches_per_s", "seconds"}
    assert all(event.value > 0 for name in gradients for event in scalars[name])
    end = reports[-1]
    gain = end.scores["a"]["psnr_db"] - end.bicubic["a"]["psnr_db"]
    assert scalars["gain_db/a"][-1].value == pytest.approx(gain, abs=1e-5)
    assert steps["psnr_db/a"] == [20, 40, 60]
    assert steps["loss/pixel"] == list(range(2, 61, 2))
    assert steps["loss/critic"] == list(range(12, 61, 2))  # begins after 10 patches
    assert steps["loss/penalty"] == list(range(16, 61, 6))  # on every third of the critic's steps
    for report, event in zip(reports, scalars["psnr_db/a"], strict=True):
        assert event.value == pytest.approx(report.scores["a"]["psnr_db"])
    last = [event.value for event in scalars["loss/pixel"][-10:]]
    assert np.mean(last) == pytest.approx(reports[-1].losses["pixel"])
    assert [image.step for image in events.Images("samples")] == [20, 40, 60]


def test_a_sample_shows_low_bicubic_made_and_high(fidelity: Finished) -> None:
    _, reports, own = fidelity
    names = [f"{patches:010}.png" for patches in (20, 40, 60)]
    assert sorted(path.name for path in (own.out / "samples").iterdir()) == names
    picture = pixels_of(own.out / "samples" / names[-1])
    assert picture.shape == (2 * 48, 4 * 48, 3)  # as wide as the narrower image
    shown = {"b": picture[:48], "a": picture[48:]}
    for data, row in shown.items():
        high = pixels_of(own.valid / data / "1.png")[:48]
        high = high[:, : high.shape[1] // 8 * 8]  # whole windows
        low = bicubic_down(high, 2)
        nearest, bicubic, made, true = np.split(row, 4, axis=1)
        assert np.array_equal(true, high[:, :48])
        assert psnr_db(nearest, low.repeat(2, 0).repeat(2, 1)[:, :48]) > 50
        assert psnr_db(bicubic, bicubic_up(low, 2)[:, :48]) > 50
        assert not np.array_equal(made, bicubic)
        if high.shape[1] == 48:  # shown whole
            assert psnr_db(made, true) == pytest.approx(
                reports[-1].scores[data]["psnr_db"], abs=0.1
            )


def test_the_critic_begins_when_the_recipe_says(gan: Finished, fresh: Sources) -> None:
    late = replace(GAN, critic=CriticRecipe(channels=8, begins_after=20), patches=40)
    reports: list[TrainingProgress] = []
    run_alone(late, fresh, reports.append)
    alone = {"pixel", "frequency", "colour", "grid", "border", "total_variation"}
    both = alone | {"critic", "penalty", "adversarial", "feature_matching"}
    assert [set(report.losses) for report in reports] == [alone, both]
    assert [set(report.losses) for report in gan[1]] == [both | {"perceptual"}] * 3


def test_every_critic_step_has_patches_of_its_own(
    fresh: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    learn = Adversary.learn

    def watched(self: Adversary, real: Seen, fake: Seen, *rest: Any) -> dict[str, Tensor]:
        assert not fake.image.requires_grad
        assert not fake.pooled.requires_grad
        seen.append(real.image)
        return learn(self, real, fake, *rest)

    monkeypatch.setattr(Adversary, "learn", watched)
    thrice = CriticRecipe(channels=8, steps=3)
    recipe = replace(GAN, critic=thrice, patches=4, validate_every=4)
    run_alone(recipe, fresh)
    sampler = PatchSampler(fresh.data, recipe.data, scale=2, seed=recipe.seed)
    drawn = torch.split(sampler.draw(0, 12).high, 2)
    order = (1, 2, 0, 4, 5, 3)  # the generator's own patches last
    assert len(seen) == len(order)
    assert all(torch.equal(real, drawn[index]) for real, index in zip(seen, order, strict=True))


@pytest.mark.parametrize(
    "generator",
    [
        GeneratorSpec(2, "batch", 4, channels=8, blocks=1),
        GeneratorSpec(2, "batch", 4, block="plain", channels=8, blocks=1),
        GeneratorSpec(4, "batch", 0, block="plain", channels=8, blocks=1),
    ],
    ids=lambda spec: f"{spec.architecture} x{spec.scale}",
)
def test_other_generators_learn_too(generator: GeneratorSpec, fresh: Sources) -> None:
    """In the paper's form, without a bicubic skip; SRGAN has no attention."""
    reports: list[TrainingProgress] = []
    recipe = replace(RECIPE, generator=generator, optimizer=OptimizerRecipe(1e-2, warmup=0, ema=0))
    trained = run_alone(recipe, fresh, reports.append)
    assert reports[-1].losses["pixel"] < 0.8 * reports[0].losses["pixel"]
    assert trained.generator.spec == generator
    assert all(bool(torch.isfinite(x).all()) for x in trained.generator.state_dict().values())


def test_another_seed_gives_another_run(fidelity: Finished, fresh: Sources) -> None:
    reports: list[TrainingProgress] = []
    run_alone(replace(RECIPE, patches=20, seed=1), fresh, reports.append)
    assert reports[0].losses["pixel"] != fidelity[1][0].losses["pixel"]


def test_a_loss_that_is_no_number_stops_the_run(fresh: Sources) -> None:
    wild = replace(RECIPE, optimizer=OptimizerRecipe(learning_rate=1e30, warmup=0))
    with pytest.raises(SlidesrError, match="not a number") as caught:
        run_alone(wild, fresh)
    assert "\n" not in str(caught.value)
    assert not (fresh.out / "checkpoint.pt").exists()


def test_a_validation_image_without_a_whole_window_is_refused(fresh: Sources) -> None:
    small = fresh.out.parent / "valid" / "small.png"
    small.parent.mkdir()
    Image.fromarray(np.zeros((40, 7, 3), np.uint8)).save(small)
    with pytest.raises(RefusedError, match=r"small\.png"):
        run_alone(RECIPE, replace(fresh, valid=small.parent))


# What moves the weights


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe, total = OptimizerRecipe(learning_rate=2.0, warmup=100), 1000
    rates = [learning_rate(recipe, patches, total) for patches in range(total + 1)]
    assert rates[0] == pytest.approx(2 / 100)
    assert rates[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.049)))  # half of 2.0
    assert rates[500] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[:99] == sorted(rates[:99])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert learning_rate(replace(recipe, warmup=0), 0, total) == pytest.approx(2.0)


def test_a_learning_rate_without_cooldown_does_not_fall() -> None:
    recipe = OptimizerRecipe(learning_rate=2.0, warmup=100, cooldown=0.0)
    assert learning_rate(recipe, 0, 1000) == pytest.approx(2 / 100)
    assert {learning_rate(recipe, patches, 1000) for patches in (100, 500, 1000)} == {2.0}


def test_a_learning_rate_falls_in_the_last_share_alone() -> None:
    recipe = OptimizerRecipe(learning_rate=2.0, warmup=0, cooldown=0.25)
    rates = [learning_rate(recipe, patches, 1000) for patches in range(1001)]
    assert set(rates[:751]) == {2.0}
    assert rates[750:] == sorted(set(rates[750:]), reverse=True)
    assert rates[875] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate(recipe, 10**9, math.inf) == 2.0  # an end that is not known yet


def test_the_average_is_kept_or_the_last_weights(fresh: Sources) -> None:
    for ema in (0.0, 0.9):
        own = replace(fresh, out=fresh.out / str(ema))
        recipe = replace(SHORT, optimizer=replace(SHORT.optimizer, ema=ema))
        kept = run_alone(recipe, own).generator
        last = Generator(recipe.generator)
        saved = torch.load(own.out / "checkpoint.pt", weights_only=True)
        last.load_state_dict(saved["generator"])
        assert same(kept, last.half().float()) == (ema == 0)
