"""Initial weights of a training run: random, or taken from an existing model."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from slidesr.errors import RefusedError
from slidesr.model.weights import find_model, read_model
from slidesr.nets.generator import Generator, GeneratorSpec


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
        matches = replace(stored.generator, scale=spec.scale, window=spec.window) == spec
        if not matches or bool(stored.generator.window) != bool(spec.window):
            raise RefusedError(f"{path}: not the network of the recipe: {stored.generator}")
        _copy_weights(source, generator)
    return generator


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
