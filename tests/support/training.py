"""A training run small enough for a test: its recipes, its images, and what becomes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from skimage.data import immunohistochemistry

from slidesr.model.weights import EncoderHeader, save_encoder
from slidesr.nets.encoder import Encoder, EncoderSpec
from slidesr.nets.generator import GeneratorSpec
from slidesr.train.data import DataRecipe
from slidesr.train.distributed import World
from slidesr.train.loop import Sources, Trained, TrainingProgress, train
from slidesr.train.recipe import (
    CriticRecipe,
    LossRecipe,
    OptimizerRecipe,
    Recipe,
    recipe_as_dict,
)

RECIPE = Recipe(
    name="tiny",
    generator=GeneratorSpec(2, "weight", 4, bicubic_skip=True, channels=8, blocks=1),
    patches=60,
    high_um_per_px=(0.25, 0.5),
    batch=2,
    validate_every=20,
    data=DataRecipe(patch_px=16, context_px=4, weights={"a": 2.0}, stain_jitter=0.1),
    optimizer=OptimizerRecipe(learning_rate=3e-3, warmup=10, ema=0.9),
)
GAN = replace(
    RECIPE,
    loss=LossRecipe(
        pixel="charbonnier",
        adversarial_weight=1e-3,
        feature_matching_weight=1e-2,
        frequency_weight=0.1,
        colour_weight=0.1,
        grid_weight=0.1,
        border_weight=0.1,
        total_variation_weight=1e-2,
    ),
    critic=CriticRecipe(channels=8, steps=2, penalty_every=3, begins_after=10),
)


def sources_in(folder: Path, *, side_px: int = 48) -> Sources:
    """Two data sets to train on and two to validate with, of at least `side_px` a side."""
    section = immunohistochemistry()  # type: ignore[no-untyped-call]
    images = {
        "data/a/1.png": section[:64, :64],
        "data/a/2.png": section[200:256, 300:372],
        "data/b/1.png": section[300:332, 100:132],
        "valid/a/1.png": section[-side_px:, -side_px:],
        "valid/b/1.png": section[: side_px + 1, 250 : 250 + side_px + 19],
    }
    for name, pixels in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return Sources(folder / "data", folder / "valid", folder / "run")


def run_alone(
    recipe: Recipe, sources: Sources, report: Callable[[TrainingProgress], None] = lambda now: None
) -> Trained:
    """One process on the CPU."""
    return train(recipe, sources, World(0, 1, torch.device("cpu")), report)


def tiny_encoder(path: Path) -> Path:
    """A perceptual network with random weights."""
    spec = EncoderSpec((8, 8))
    save_encoder(path, EncoderHeader("tiny", spec, "CC0"), Encoder(spec))
    return path


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Whether two networks are equal, bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def write_toml(path: Path, recipe: Recipe, **changes: Any) -> Path:
    """The recipe as TOML with other values; `data__patch_px` is patch_px of [data]."""
    table = recipe_as_dict(recipe)
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = table
        for section in sections:
            target = target[section]
        target[key] = value
    path.write_text(_toml(table))
    return path


def _toml(table: Mapping[str, Any], where: str = "") -> str:
    lines, below = [], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            below.append(f"[{where}{key}]\n{_toml(value, f'{where}{key}.')}")
        elif isinstance(value, float) and not math.isfinite(value):
            lines.append(f"{key} = {value}\n")  # inf and nan are numbers in TOML
        elif value is not None:  # what is absent is left out
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join([*lines, *below])
