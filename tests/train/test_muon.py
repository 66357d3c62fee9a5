"""Muon: what it orthogonalises, how far it steps, and what it leaves to AdamW."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.networks import noise
from support.training import RECIPE, run_alone, same, sources_in
from torch import Tensor, nn

from slidesr.train.loop import TrainingProgress
from slidesr.train.muon import Muon, orthogonalised


def parameter(*shape: int, seed: int = 1) -> nn.Parameter:
    return nn.Parameter(noise(*shape, seed=seed) - 0.5)


def descend(optimizer: torch.optim.Optimizer, parts: list[nn.Parameter], scale: float = 1) -> None:
    """Three steps towards other values, the same for equal shapes."""
    for _ in range(3):
        optimizer.zero_grad()
        losses = [((part.flatten(1) - aim(part).flatten(1)) ** 2).sum() for part in parts]
        (scale * torch.stack(losses).sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def aim(part: Tensor) -> Tensor:
    return noise(len(part), part.numel() // len(part), seed=2)


def moved(part: nn.Parameter, optimizer: torch.optim.Optimizer, scale: float = 1) -> Tensor:
    before = part.detach().clone()
    descend(optimizer, [part], scale)
    return part.detach() - before


@pytest.mark.parametrize(("rows", "columns"), [(64, 576), (256, 64), (16, 32)])
def test_all_singular_values_become_about_one(rows: int, columns: int) -> None:
    matrix = noise(rows, columns, seed=3) - 0.5
    made = orthogonalised(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (left.T @ made @ right.T).diag().sum() == pytest.approx(float(values.sum()), rel=1e-3)


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (64, 16, 1, 1)], ids=["wide", "tall"])
def test_it_steps_as_torchs_own_does_on_matrices(shape: tuple[int, ...]) -> None:
    theirs = getattr(torch.optim, "Muon", None)
    if theirs is None:
        pytest.skip("this torch has no Muon")
    kernel = parameter(*shape)
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    ours = moved(kernel, Muon([kernel], lr=0.01, weight_decay=0.1)).flatten(1)
    reference = theirs([matrix], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    apart = ours - moved(matrix, reference)
    assert apart.norm() < 0.1 * ours.norm()  # theirs is computed in bf16


def test_the_scale_of_the_loss_does_not_matter() -> None:
    small, large = (parameter(32, 16, 3, 3) for _ in range(2))
    steps = [
        moved(part, Muon([part], lr=0.01, weight_decay=0.0), scale)
        for part, scale in ((small, 1), (large, 1000))
    ]
    torch.testing.assert_close(*steps, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(64,), (64, 1, 1, 1), (8, 64, 3, 3), (64, 8, 1, 1), (32, 32)], ids=str
)
def test_all_that_is_no_large_kernel_is_left_to_adamw(shape: tuple[int, ...]) -> None:
    ours, theirs = parameter(*shape), parameter(*shape)
    for part, kind in ((ours, Muon), (theirs, torch.optim.AdamW)):
        optimizer = kind([part], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (part**2).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_its_state_is_all_it_needs_to_go_on() -> None:
    parts = [parameter(32, 16, 3, 3), parameter(16, 1)]
    optimizer = Muon(parts, lr=0.01)
    descend(optimizer, parts)
    others = deepcopy(parts)
    later = Muon(others, lr=0.5)
    later.load_state_dict(deepcopy(optimizer.state_dict()))
    descend(optimizer, parts)
    descend(later, others)
    assert all(map(torch.equal, parts, others))


def test_a_recipe_can_ask_for_it(tmp_path: Path) -> None:
    sources, learnt = sources_in(tmp_path), {}
    for kind in ("adamw", "muon"):
        recipe = replace(RECIPE, optimizer=replace(RECIPE.optimizer, kind=kind))
        reports: list[TrainingProgress] = []
        out = replace(sources, out=tmp_path / kind)
        learnt[kind] = run_alone(recipe, out, reports.append).generator
        assert reports[-1].losses["pixel"] < reports[0].losses["pixel"]
    assert not same(learnt["adamw"], learnt["muon"])
