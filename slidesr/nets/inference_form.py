"""Makes a trained generator ready for use: the same numbers from fewer, plainer operations."""

from __future__ import annotations

from itertools import pairwise
from math import e, log2
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slidesr.nets.cpu_inference import (
    ActivatedConv,
    FoldedOutput,
    InferenceGenerator,
    InPlaceWindowAttention,
)
from slidesr.nets.generator import Generator
from slidesr.nets.layers import WindowAttention


def folded(generator: Generator, dtype: torch.dtype = torch.float32) -> InferenceGenerator:
    """A frozen copy in `dtype`: norms become part of the convolutions, activations run in them."""
    ready = InferenceGenerator(generator.spec)  # no deepcopy: parametrized modules share a class
    ready.load_state_dict(generator.state_dict())
    ready.eval().requires_grad_(False)
    for module in list(ready.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
            _fuse_activations(module)
    for name, layers in (("head", ready.head), ("fuse", ready.fuse)):
        ready.add_module(name, _alone(layers))
    doubles = [_alone(double) for double in ready.up]
    for double in doubles[:-1]:
        _group_sub_pixels(cast(ActivatedConv, double).conv)
    ready.up = nn.Sequential(*doubles)
    ready.add_module("output", FoldedOutput(ready.output))
    if isinstance(ready.attention, WindowAttention):
        _take_powers_of_2(ready.attention)
        ready.add_module("attention", InPlaceWindowAttention(ready.attention))
    return ready.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def unpadded(generator: Generator) -> Generator:
    """Lets convolutions take from the halo instead of adding zeros that are cut off afterwards.

    For `core` and its halves alone: maps become smaller from layer to layer.
    """
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    return generator


def same_on_any_threads(generator: Generator) -> Generator:
    """Lets a CPU compute 1 x 1 convolutions alike, to the bit, with one thread and with more.

    With one thread torch takes its own kernel for them instead of oneDNN's, unless they are dilated
    (`use_mkldnn` in ATen/native/Convolution.cpp), which means nothing to a kernel of one pixel.
    oneDNN's is twice as fast there.
    """
    for module in generator.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (2, 2)
    return generator


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for index, (conv, norm) in reversed(list(enumerate(pairwise(layers)))):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(conv, norm)
            del layers[index + 1]


def _fuse_activations(layers: nn.Sequential) -> None:
    for index, (conv, activation) in reversed(list(enumerate(pairwise(layers)))):
        if isinstance(conv, nn.Conv2d) and isinstance(activation, nn.ReLU | nn.PReLU):
            layers[index] = ActivatedConv(conv, activation)
            del layers[index + 1]


def _alone(layers: nn.Module) -> nn.Module:
    """The layer that is left of several."""
    if not isinstance(layers, nn.Sequential):
        return layers
    (layer,) = layers
    return layer


def _group_sub_pixels(conv: nn.Conv2d) -> None:
    """Puts the channels of one sub-pixel side by side; a pixel shuffle has them four apart."""
    for part in conv.parameters():
        part.copy_(part.view(-1, 4, *part.shape[1:]).transpose(0, 1).reshape(part.shape))


def _take_powers_of_2(attention: WindowAttention) -> None:
    """Scores become those of a softmax to the base of 2, which is faster."""
    for part in attention.query.parameters():
        part.mul_(log2(e))
    attention.scale /= log2(e)
