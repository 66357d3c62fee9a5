"""The losses in training: each as heavy as the recipe says, the critic's kept to its own part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import RECIPE, run_alone, same, sources_in

from slidesr.errors import RefusedError
from slidesr.nets.generator import GeneratorSpec
from slidesr.train.adversary import Adversary
from slidesr.train.distributed import World
from slidesr.train.objective import Objective
from slidesr.train.recipe import CriticRecipe, LossRecipe

CPU = torch.device("cpu")
SPEC = GeneratorSpec(2, "weight", 4, channels=8, blocks=1)
PAPER = replace(
    RECIPE,
    generator=SPEC,
    patches=8,
    validate_every=8,
    loss=LossRecipe("mse", adversarial_weight=1.0),
    critic=CriticRecipe(channels=8, penalty_mix="normal", reaches_generator=False),
)


def test_an_adversary_tells_real_from_made() -> None:
    torch.manual_seed(0)
    adversary = Adversary(CriticRecipe(channels=8, learning_rate=1e-3), World(0, 1, CPU))
    real = torch.rand(4, 3, 16, 16)
    made = real.roll(1, 0).lerp(torch.full_like(real, 0.5), 0.7)  # dull
    rng = torch.Generator().manual_seed(0)
    seen = [adversary.learn(real, made, step, rng) for step in range(30)]
    assert seen[-1]["critic"] < seen[0]["critic"] - 0.1
    assert seen[-1]["penalty"] < seen[0]["penalty"]


def test_the_generators_losses_leave_the_critic_alone() -> None:
    adversary = Adversary(CriticRecipe(channels=8), World(0, 1, CPU))
    real, made = torch.rand(2, 2, 3, 16, 16).requires_grad_()
    made.retain_grad()
    weights = LossRecipe(adversarial_weight=1.0, feature_matching_weight=1.0)
    losses = adversary.losses(real, made, weights)
    assert set(losses) == {"adversarial", "feature_matching"}
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(made.grad.any())
    assert all(p.grad is None and p.requires_grad for p in adversary.critic.parameters())


def test_the_adversarial_loss_as_published_gives_no_gradient(tmp_path: Path) -> None:
    """Bit for bit what is trained without it; as the paper describes it, it makes a difference."""
    sources = sources_in(tmp_path)
    assert PAPER.critic is not None
    published, without, described = (
        run_alone(recipe, replace(sources, out=tmp_path / str(index))).generator
        for index, recipe in enumerate(
            (
                PAPER,
                replace(PAPER, loss=LossRecipe("mse")),
                replace(PAPER, critic=replace(PAPER.critic, reaches_generator=True)),
            )
        )
    )
    assert same(published, without)
    assert not same(published, described)


@pytest.mark.parametrize(
    "name", ["pixel", "frequency", "colour", "grid", "border", "total_variation"]
)
def test_a_loss_is_as_heavy_as_the_recipe_says(name: str) -> None:
    torch.manual_seed(0)
    made, high, low = (torch.rand(2, 3, side, side) for side in (16, 16, 8))
    weights: dict[str, Any] = {"pixel_weight": 0.0}
    once, thrice = (
        Objective(LossRecipe(**weights | {f"{name}_weight": weight}), SPEC, CPU, None)
        for weight in (1.0, 3.0)
    )
    light, heavy = once.losses(made, high, low), thrice.losses(made, high, low)
    assert set(light) == {name}
    assert float(light[name]) > 0
    assert float(heavy[name]) == pytest.approx(3 * float(light[name]))


def test_judges_do_not_see_the_finest_pixels() -> None:
    flat = torch.full((1, 3, 8, 8), 0.5)
    pattern = flat + 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    coarse, fine = (Objective(LossRecipe(judged_px=px), SPEC, CPU, None) for px in (2, 1))
    assert torch.allclose(coarse.pooled(pattern), torch.full((1, 3, 4, 4), 0.5))
    assert torch.equal(fine.pooled(pattern), pattern)


def test_vgg19_is_neither_forgotten_nor_loaded_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="--vgg19"):
        Objective(LossRecipe(vgg19_weight=1.0), SPEC, CPU, None)
    with pytest.raises(RefusedError, match=r"vgg19\.pth: .*vgg19_weight"):
        Objective(LossRecipe(), SPEC, CPU, tmp_path / "vgg19.pth")
