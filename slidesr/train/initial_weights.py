"""The weights that a training run starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from slidesr.errors import RefusedError
from slidesr.model.weights import find_model, read_model
from slidesr.nets.generator import Generator, GeneratorSpec


def initial_generator(spec: GeneratorSpec, start: str) -> Generator:
    """Builds a generator with random weights, or with those of `start`: a shipped name or a file.

    The stored weights may have another scale or attention window. Everything but the upsampling is
    copied, and as many upsampling stages as both networks have. Raises RefusedError if the
    architectures differ otherwise.
    """
    generator = Generator(spec)
    if start:
        path = find_model(start)
        stored, other = read_model(path)
        fitting = replace(stored.generator, scale=spec.scale, window=spec.window) == spec
        if not fitting or bool(stored.generator.window) != bool(spec.window):
            raise RefusedError(f"{path}: not the network of the recipe: {stored.generator}")
        _copy_shared_weights(generator, other)
    return generator


def _copy_shared_weights(generator: Generator, other: Generator) -> None:
    shared = {k: v for k, v in other.state_dict().items() if not k.startswith("up.")}
    generator.load_state_dict(shared, strict=False)
    for stage, known in zip(generator.up, other.up, strict=False):
        stage.load_state_dict(known.state_dict())
    for stage in list(generator.up)[len(other.up) :]:
        _initialise_as_nearest(stage)


@torch.no_grad()
def _initialise_as_nearest(stage: nn.Module) -> None:
    """Initialises a stage close to nearest-neighbour upsampling, so training starts smoothly."""
    conv, prelu = cast("tuple[nn.Conv2d, nn.PReLU]", tuple(stage.children()))
    conv.weight.mul_(0.1)  # not zero: the four sub-pixels must be able to diverge
    for channel in range(conv.in_channels):
        conv.weight[4 * channel : 4 * channel + 4, channel, 1, 1] += 1
    prelu.weight.fill_(1)
