"""Folds a trained generator for inference: the same output from fewer, simpler operations."""

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
    """Returns a frozen copy in `dtype` with norms and activations folded into the convolutions."""
    frozen = InferenceGenerator(generator.spec)  # no deepcopy: parametrized modules share a class
    frozen.load_state_dict(generator.state_dict())
    frozen.eval().requires_grad_(False)
    for module in list(frozen.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
            _fuse_activations(module)
    for name, layers in (("head", frozen.head), ("fuse", frozen.fuse)):
        frozen.add_module(name, _only_layer(layers))
    doubles = [_only_layer(double) for double in frozen.up]
    for double in doubles[:-1]:
        _group_sub_pixels(cast(ActivatedConv, double).conv)
    frozen.up = nn.Sequential(*doubles)
    frozen.add_module("output", FoldedOutput(frozen.output))
    if isinstance(frozen.attention, WindowAttention):
        _take_powers_of_2(frozen.attention)
        frozen.add_module("attention", InPlaceWindowAttention(frozen.attention))
    return frozen.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def unpadded(generator: Generator) -> Generator:
    """Removes the zero padding of all convolutions, in place, so that they consume the halo.

    Only for `core` and its halves: feature maps shrink from layer to layer.
    """
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    return generator


def same_on_any_threads(generator: Generator) -> Generator:
    """Makes 1 x 1 convolutions on a CPU bit-identical for any number of threads, in place.

    With one thread torch uses its own kernel instead of oneDNN's, unless the convolution is dilated
    (`use_mkldnn` in ATen/native/Convolution.cpp); dilation has no effect on a 1 x 1 kernel.
    oneDNN's kernel is also twice as fast there.
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


def _only_layer(layers: nn.Module) -> nn.Module:
    """The single layer that folding has left."""
    if not isinstance(layers, nn.Sequential):
        return layers
    (layer,) = layers
    return layer


def _group_sub_pixels(conv: nn.Conv2d) -> None:
    """Reorders channels so that those of one sub-pixel are contiguous, not four apart."""
    for part in conv.parameters():
        part.copy_(part.view(-1, 4, *part.shape[1:]).transpose(0, 1).reshape(part.shape))


def _take_powers_of_2(attention: WindowAttention) -> None:
    """Rescales the queries for a base-2 softmax, which is faster."""
    for part in attention.query.parameters():
        part.mul_(log2(e))
    attention.scale /= log2(e)
