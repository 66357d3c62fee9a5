"""Initial weights of a training run: random, or taken from an existing model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from slidesr.errors import RefusedError
from slidesr.model.weights import ModelSpec, find_model, read_model, read_spec
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.train.recipe import Recipe, recipe_as_dict


def initial_generator(spec: GeneratorSpec, start: str) -> Generator:
    """Creates a generator with random weights, or with those of `start` (shipped name or file).

    Scale and attention window may differ from those of `start`: everything but the upsampling is
    copied, and as many upsampling stages as both have. Additional stages initially repeat pixels.
    Raises RefusedError if the networks differ otherwise.
    """
    generator = Generator(spec)
    if start:
        path = find_model(start)
        stored, source = read_model(path)
        if not can_start(spec, stored.generator):
            raise RefusedError(f"{path}: not the network of the recipe: {stored.generator}")
        _copy_weights(source, generator)
    return generator


def can_start(spec: GeneratorSpec, stored: GeneratorSpec) -> bool:
    """Whether a network can start from stored weights: only scale and window size may differ."""
    matches = replace(stored, scale=spec.scale, window=spec.window) == spec
    return matches and bool(stored.window) == bool(spec.window)


def spec_of_start(start: str) -> ModelSpec | None:
    """Reads the header of a start; None for random weights.

    Raises RefusedError if it does not tell how its weights were trained.
    """
    if not start:
        return None
    path = find_model(start)
    spec = read_spec(path)
    if not spec.stages:
        raise RefusedError(f"{path}: its header does not tell how it was trained: no start")
    return spec


def without_last_stage(spec: ModelSpec) -> ModelSpec | None:
    """The header of what a model's last run started from; None for random weights."""
    return replace(spec, stages=spec.stages[:-1]) if len(spec.stages) > 1 else None


def recorded(recipe: Recipe, start: ModelSpec | None) -> dict[str, Any]:
    """The recipe as plain data, its start by name, so that it holds no path."""
    return recipe_as_dict(replace(recipe, start=start.stages[-1].name if start else ""))


def _copy_weights(source: Generator, generator: Generator) -> None:
    shared = {k: v for k, v in source.state_dict().items() if not k.startswith("up.")}
    generator.load_state_dict(shared, strict=False)
    for stage, trained in zip(generator.up, source.up, strict=False):
        stage.load_state_dict(trained.state_dict())
    for stage in list(generator.up)[len(source.up) :]:
        _repeat_pixels(stage)


@torch.no_grad()
def _repeat_pixels(stage: nn.Module) -> None:
    """Initialises a stage to repeat each pixel four times, approximately (nearest neighbour)."""
    conv, prelu = cast("tuple[nn.Conv2d, nn.PReLU]", tuple(stage.children()))
    conv.weight.mul_(0.1)  # not zero, so that the four copies can diverge
    for channel in range(conv.in_channels):
        conv.weight[4 * channel : 4 * channel + 4, channel, 1, 1] += 1
    prelu.weight.fill_(1)
