"""Measures the training speed of a recipe, and that of data loading alone, in patches per second.

    python benchmarks/training_speed.py RECIPE --data DATA [--patches 256]

Runs the training loop for twice the given patches and times the second half; then draws the same
number of patches in one thread. Loading is not the bottleneck if it is faster. The share of the
device's convolution ceiling counts the generator's arithmetic only, without critic and perceptual
network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image

from slidesr.model.device import Engine
from slidesr.nets.cost import convolution_ceiling, flops_per_px
from slidesr.slide.image_files import image_paths, read_rgb
from slidesr.train.data import PatchSampler
from slidesr.train.distributed import joined_processes
from slidesr.train.loop import Sources, TrainingProgress, train
from slidesr.train.recipe import Recipe, find_recipe, recipe_from_toml

_FORWARD_AND_BACKWARD = 3  # multiple of the arithmetic of the forward pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--patches", type=int, default=256)
    chosen = parser.parse_args()
    recipe = recipe_from_toml(Recipe, find_recipe(chosen.recipe))
    recipe = replace(recipe, patches=2 * chosen.patches, validate_every=chosen.patches, start="")
    if recipe.critic:
        recipe = replace(recipe, critic=replace(recipe.critic, begins_after=0))
    trained = _trained_per_s(recipe, chosen.data)
    low_px = (recipe.data.patch_px // recipe.generator.scale) ** 2
    flops = _FORWARD_AND_BACKWARD * flops_per_px(recipe.generator) * low_px
    engine = Engine.choose()
    share = trained * flops / convolution_ceiling(engine.device, engine.precision)
    print(f"training   {trained:8.1f} patches/s")
    print(
        f"loading    {_drawn_per_s(recipe, chosen.data, chosen.patches):8.1f} patches/s per thread"
    )
    print(f"generator  {share:8.0%} of the device's convolution ceiling")


def _trained_per_s(recipe: Recipe, data: Path) -> float:
    reports: list[TrainingProgress] = []
    with tempfile.TemporaryDirectory() as folder, joined_processes() as world:
        valid = Path(folder) / "valid"
        valid.mkdir()
        side = recipe.data.patch_px
        image = read_rgb(image_paths(data)[0])[:side, :side]
        Image.fromarray(image).save(valid / "one.png")
        train(recipe, Sources(data, valid, Path(folder) / "run"), world, reports.append)
    first, second = reports
    return (second.patches - first.patches) / (second.seconds - first.seconds)


def _drawn_per_s(recipe: Recipe, data: Path, patches: int) -> float:
    sampler = PatchSampler(data, recipe.data, scale=recipe.generator.scale, seed=recipe.seed)
    started = time.perf_counter()
    sampler.draw(0, patches)
    return patches / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
