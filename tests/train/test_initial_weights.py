"""Warm starts: what fits is taken over, the first loss is lower, another network is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import RECIPE, run_alone, sources_in

from slidesr.errors import RefusedError
from slidesr.model.weights import (
    ModelSpec,
    default_model,
    find_model,
    read_model,
    read_spec,
    save_model,
)
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.train.initial_weights import initial_generator
from slidesr.train.loop import TrainingProgress
from slidesr.train.recipe import OptimizerRecipe


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_warm_start_takes_over_what_fits(scale: int, start: Path) -> None:
    spec = replace(RECIPE.generator, scale=scale, window=8)
    made, known = (
        initial_generator(spec, str(start)).state_dict(),
        read_model(start)[1].state_dict(),
    )
    shared = [name for name in made if not name.startswith("up.")]
    assert all(torch.equal(made[name], known[name]) for name in shared)
    stages = [name for name in made if name.startswith(("up.0.", "up.1."))]
    assert len(stages) == {2: 3, 4: 6, 8: 6}[scale]
    assert all(torch.equal(made[name], known[name]) for name in stages)


@pytest.mark.parametrize("scale", [2, 8])
def test_a_warm_start_soon_has_lower_losses(scale: int, tmp_path: Path) -> None:
    """From shipped x4 weights, once their tail has adapted to the scale: after 24 patches."""
    x4 = default_model(4)
    recipe = replace(
        RECIPE,
        generator=replace(read_spec(find_model(x4)).generator, scale=scale, window=4),
        data=replace(RECIPE.data, patch_px=32, context_px=0),
        optimizer=OptimizerRecipe(learning_rate=5e-4, warmup=10),
        patches=48,
        validate_every=24,
    )
    sources, losses = sources_in(tmp_path), dict[str, float]()
    for start in ("", x4):
        reports: list[TrainingProgress] = []
        own = replace(sources, out=tmp_path / f"from {start}")
        run_alone(replace(recipe, start=start), own, reports.append)
        losses[start] = reports[-1].losses["pixel"]
    assert losses[x4] < losses[""]


@pytest.mark.parametrize(
    "other",
    [
        {"channels": 16},
        {"block": "plain"},
        {"norm": "batch"},
        {"bicubic_skip": False},
        {"window": 0},
    ],
    ids=str,
)
def test_weights_of_another_network_are_no_start(other: dict[str, Any], start: Path) -> None:
    with pytest.raises(RefusedError, match=r"start\.safetensors: not the network") as caught:
        initial_generator(replace(RECIPE.generator, **other), str(start))
    assert "\n" not in str(caught.value)


@pytest.fixture
def start(
    tmp_path: Path,
    trained_looking: Callable[[GeneratorSpec], Generator],
    model_spec: Callable[[GeneratorSpec], ModelSpec],
) -> Path:
    """Small weights of x4."""
    spec = replace(RECIPE.generator, scale=4)
    save_model(tmp_path / "start.safetensors", model_spec(spec), trained_looking(spec))
    return tmp_path / "start.safetensors"
