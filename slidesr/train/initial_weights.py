"""The weights that a training run begins with."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from slidesr.errors import RefusedError
from slidesr.model.weights import find_model, read_model
from slidesr.nets.generator import Generator, GeneratorSpec


def begin(spec: GeneratorSpec, start: str) -> Generator:
    """A generator with random weights, or with those of `start`, a shipped model's name or a file.

    The weights may be of another scale and another attention window: all but the upsampling is
    taken over, and the upsampling as far as it goes.
    """
    generator = Generator(spec)
    if start:
        path = find_model(start)
        stored, other = read_model(path)
        fitting = replace(stored.generator, scale=spec.scale, window=spec.window) == spec
        if not fitting or bool(stored.generator.window) != bool(spec.window):
            raise RefusedError(f"{path}: another network than the recipe's: {stored.generator}")
        _take_over(generator, other)
    return generator


def _take_over(generator: Generator, other: Generator) -> None:
    shared = {k: v for k, v in other.state_dict().items() if not k.startswith("up.")}
    generator.load_state_dict(shared, strict=False)
    for stage, known in zip(generator.up, other.up, strict=False):
        stage.load_state_dict(known.state_dict())
    for stage in list(generator.up)[len(other.up) :]:
        _enlarge_by_copying(stage)


@torch.no_grad()
def _enlarge_by_copying(stage: nn.Module) -> None:
    """Makes a stage repeat each pixel four times, nearly: the gentlest of starts."""
    conv, prelu = cast("tuple[nn.Conv2d, nn.PReLU]", tuple(stage.children()))
    conv.weight.mul_(0.1)  # not zero: the four copies must be able to part
    for channel in range(conv.in_channels):
        conv.weight[4 * channel : 4 * channel + 4, channel, 1, 1] += 1
    prelu.weight.fill_(1)
