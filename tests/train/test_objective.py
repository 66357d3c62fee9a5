"""The losses in training: each as heavy as the recipe says, the critic's kept to its own part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import RECIPE, run_alone, same, sources_in
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.nets.generator import GeneratorSpec
from slidesr.train.adversary import Adversary
from slidesr.train.distributed import World
from slidesr.train.objective import Objective, Seen, pretrained_networks
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


def pixels(image: Tensor) -> Seen:
    return Seen(image, image, {})


def losses_of(objective: Objective, made: Tensor, high: Tensor, low: Tensor) -> dict[str, Tensor]:
    return objective.losses(objective.seen(made), objective.seen(high), low)


def test_an_adversary_tells_real_from_made() -> None:
    torch.manual_seed(0)
    adversary = Adversary(CriticRecipe(channels=8, learning_rate=1e-3), World(0, 1, CPU))
    real = torch.rand(4, 3, 16, 16)
    made = real.roll(1, 0).lerp(torch.full_like(real, 0.5), 0.7)  # dull
    seen = [adversary.learn(pixels(real), pixels(made), step) for step in range(30)]
    late = torch.stack([losses["critic"] for losses in seen[-5:]]).mean()
    assert late < seen[0]["critic"] - 0.1
    assert seen[-1]["penalty"] < seen[0]["penalty"]


def test_the_generators_losses_leave_the_critic_alone() -> None:
    adversary = Adversary(CriticRecipe(channels=8), World(0, 1, CPU))
    real, made = torch.rand(2, 2, 3, 16, 16).requires_grad_()
    made.retain_grad()
    weights = LossRecipe(adversarial_weight=1.0, feature_matching_weight=1.0)
    losses = adversary.losses(pixels(real), pixels(made), weights)
    assert set(losses) == {"adversarial", "feature_matching"}
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(made.grad.any())
    assert all(p.grad is None and p.requires_grad for p in adversary.critic.parameters())


def test_a_critic_of_lite0s_maps_teaches_through_them() -> None:
    """It tells a dull image by its maps alone, and its gradient reaches the image, not Lite0."""
    torch.manual_seed(0)
    recipe = CriticRecipe(sees="lite0", channels=8, learning_rate=1e-2)
    objective = Objective(LossRecipe(), SPEC, CPU, critic=recipe)
    adversary = Adversary(recipe, World(0, 1, CPU))
    real = torch.rand(4, 3, 32, 32)
    made = real.lerp(torch.full_like(real, 0.5), 0.7).requires_grad_()
    truth, shown = objective.seen(real), objective.seen(made)
    assert set(objective.losses(shown, truth, real[..., ::2, ::2])) == {"pixel"}
    taught = [adversary.learn(truth, shown.detached(), step)["critic"] for step in range(20)]
    assert taught[-1] < taught[0] - 1
    weights = LossRecipe(adversarial_weight=1.0)
    before = adversary.losses(truth, shown, weights)["adversarial"]
    (slope,) = torch.autograd.grad(before, made)
    better = objective.seen(made.detach() - 1e-2 * slope / slope.abs().max())
    assert adversary.losses(truth, better, weights)["adversarial"] < before


def test_a_critic_sees_the_maps_of_its_recipe_alone() -> None:
    recipe = CriticRecipe(sees="lite0", maps=(2, 5), channels=8)
    objective = Objective(LossRecipe(), SPEC, CPU, critic=recipe)
    adversary = Adversary(recipe, World(0, 1, CPU))
    truth, shown = (objective.seen(torch.rand(2, 3, 64, 64)) for _ in range(2))
    for number in range(5):
        maps = dict(shown.maps)
        maps["lite0"] = [part * (1 + (index == number)) for index, part in enumerate(maps["lite0"])]
        before, after = (
            adversary.losses(truth, seen, LossRecipe(adversarial_weight=1.0))["adversarial"]
            for seen in (shown, replace(shown, maps=maps))
        )
        assert torch.equal(before, after) == (number not in (1, 4))


def test_the_critics_network_is_named_once(tmp_path: Path) -> None:
    """Judged weights are marked by it, even where no loss but the critic's comes from it."""
    critic = CriticRecipe(sees="lite0")
    for weight in (0.0, 1.0):
        recipe = LossRecipe(lite0_weight=weight)
        assert Objective(recipe, SPEC, CPU, critic=critic).loss_networks == ("EfficientNet-Lite0",)
    recipe = LossRecipe(vgg19_weight=1.0, lite0_weight=1.0)
    names = [network.name for network in pretrained_networks(recipe, critic, tmp_path)]
    assert names == ["VGG19", "EfficientNet-Lite0"]


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
        Objective(LossRecipe(**weights | {f"{name}_weight": weight}), SPEC, CPU)
        for weight in (1.0, 3.0)
    )
    light, heavy = losses_of(once, made, high, low), losses_of(thrice, made, high, low)
    assert set(light) == {name}
    assert float(light[name]) > 0
    assert float(heavy[name]) == pytest.approx(3 * float(light[name]))


NETWORKS = {"lite0": "EfficientNet-Lite0", "perceptual": "histology encoder"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_perceptual_loss_is_0_for_equal_images_and_as_heavy_as_the_recipe_says(name: str) -> None:
    torch.manual_seed(0)
    made, high, low = (torch.rand(2, 3, side, side) for side in (64, 64, 32))
    weights: list[dict[str, Any]] = [{f"{name}_weight": weight} for weight in (1.0, 3.0)]
    once, thrice = (Objective(LossRecipe(**each), SPEC, CPU) for each in weights)
    assert once.loss_networks == (NETWORKS[name],)
    light, heavy = losses_of(once, made, high, low), losses_of(thrice, made, high, low)
    assert set(light) == {"pixel", name}
    assert float(heavy[name]) == pytest.approx(3 * float(light[name]))
    assert float(losses_of(once, high, high, low)[name]) == pytest.approx(0, abs=1e-6)


def test_the_stages_of_lite0_are_as_heavy_as_the_recipe_says() -> None:
    torch.manual_seed(0)
    made, high, low = (torch.rand(1, 3, side, side) for side in (64, 64, 32))
    values = []
    for weights in (
        (1.0, 1.0, 1.0, 1.0, 1.0),
        (0.0, 0.0, 0.0, 0.0, 2.0),
        (0.5, 0.5, 0.5, 0.5, 0.5),
    ):
        recipe = LossRecipe(lite0_weight=1.0, lite0_stages=weights)
        values.append(float(losses_of(Objective(recipe, SPEC, CPU), made, high, low)["lite0"]))
    every, last, half = values
    assert half == pytest.approx(every / 2)
    assert 0 < last / 2 < every / 2


def test_both_perceptual_networks_may_judge() -> None:
    both = Objective(LossRecipe(lite0_weight=1.0, perceptual_weight=0.5), SPEC, CPU)
    assert both.loss_networks == ("EfficientNet-Lite0", "histology encoder")


def losses_by_networks(output: Tensor) -> dict[str, Tensor]:
    """Losses whose gradients at the output differ a thousandfold."""
    return {
        "pixel": output.abs().mean(),
        "colour": 2 * output.mean(),
        "lite0": 700 * output.square().sum(),
        "adversarial": 1e-4 * output[:, 0].sum(),
    }


def test_the_gradient_at_the_output_is_that_of_the_sum() -> None:
    output = (torch.rand(2, 3, 8, 8) + 0.1).requires_grad_()
    losses = losses_by_networks(output)
    gradient, norms = Objective(LossRecipe(), SPEC, CPU).gradient(losses, output)
    (whole,) = torch.autograd.grad(torch.stack([*losses.values()]).sum(), output, retain_graph=True)
    torch.testing.assert_close(gradient, whole)
    (alone,) = torch.autograd.grad(losses["adversarial"], output)
    assert set(norms) == set(losses)
    torch.testing.assert_close(norms["adversarial"], alone.norm())


def test_balanced_losses_pull_as_hard_as_the_recipe_says() -> None:
    """Networks' gradients are multiples of the pixel loss's; the others keep their own."""
    recipe = LossRecipe(
        pixel_weight=2.0, balanced=True, lite0_weight=0.5, adversarial_weight=3.0, colour_weight=2.0
    )
    output = (torch.rand(2, 3, 8, 8) + 0.1).requires_grad_()
    losses = losses_by_networks(output)
    losses["pixel"] = 2 * losses["pixel"]
    gradient, _ = Objective(recipe, SPEC, CPU).gradient(losses, output)
    parts = {
        name: torch.autograd.grad(loss, output, retain_graph=True)[0]
        for name, loss in losses.items()
    }
    unit = parts["pixel"].norm() / 2
    expected = parts["pixel"] + parts["colour"]
    expected += 0.5 * unit * parts["lite0"] / parts["lite0"].norm()
    expected += 3.0 * unit * parts["adversarial"] / parts["adversarial"].norm()
    torch.testing.assert_close(gradient, expected)


def test_balanced_losses_of_equal_images_give_no_broken_gradient() -> None:
    recipe = LossRecipe(balanced=True, lite0_weight=1.0, perceptual_weight=1.0)
    objective, high = Objective(recipe, SPEC, CPU), torch.rand(1, 3, 64, 64)
    output = high.clone().requires_grad_()
    gradient, _ = objective.gradient(
        losses_of(objective, output, high, high[..., ::2, ::2]), output
    )
    assert gradient.isfinite().all()


def test_judges_do_not_see_the_finest_pixels() -> None:
    flat = torch.full((1, 3, 8, 8), 0.5)
    pattern = flat + 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    coarse, fine = (Objective(LossRecipe(judged_px=px), SPEC, CPU) for px in (2, 1))
    assert torch.allclose(coarse.seen(pattern).pooled, torch.full((1, 3, 4, 4), 0.5))
    assert torch.equal(fine.seen(pattern).pooled, pattern)


def test_vgg19_is_neither_forgotten_nor_loaded_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="--vgg19"):
        Objective(LossRecipe(vgg19_weight=1.0), SPEC, CPU)
    with pytest.raises(RefusedError, match=r"vgg19\.pth: .*vgg19_weight"):
        Objective(LossRecipe(), SPEC, CPU, vgg19=tmp_path / "vgg19.pth")
