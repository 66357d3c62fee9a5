"""Makes a trained generator ready for use: the same numbers from fewer, plainer operations."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slidesr.nets.generator import Generator
from slidesr.nets.layers import (
    SubPixelOutput,
    WideBlock,
    WindowAttention,
    map_from_windows,
    middle,
    windows_from_map,
)

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_MOST_PX = 1 << 14  # of a map that is a block's expansion wide: 8 MB in bf16 at the paper's width
_MOST_SCORES = 1 << 20  # of attention at a time: 2 MB in bf16, what a core's cache holds


def folded(generator: Generator, dtype: torch.dtype = torch.float32) -> Generator:
    """A frozen copy in `dtype`: norms become part of the convolutions, activations run in them."""
    ready = Generator(generator.spec)  # not deepcopy: copies of a parametrized module share a class
    ready.load_state_dict(generator.state_dict())
    ready.eval().requires_grad_(False)
    for module in list(ready.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
            _fuse_activations(module)
    for index, block in enumerate(ready.body):
        if isinstance(block, WideBlock):
            ready.body[index] = _InRows(block)
    ready.output = _SmallOutput(ready.output)  # type: ignore[assignment]
    if isinstance(ready.attention, WindowAttention):
        ready.attention = _InWindows(ready.attention)  # type: ignore[assignment]
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
            layers[index] = _Activated(conv, activation)
            del layers[index + 1]


class _Activated(nn.Module):
    """A convolution and the activation behind it: one pass over memory, by oneDNN on a CPU.

    There it is what torch's own compiler makes of such a pair.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.ReLU | nn.PReLU) -> None:
        super().__init__()
        self.conv = conv
        self._slope = activation.weight.item() if isinstance(activation, nn.PReLU) else 0.0

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if x.device.type != "cpu" or x.dtype == torch.float64 or not _HAS_ONEDNN:
            return F.leaky_relu_(conv(x), self._slope)
        how = conv.padding, conv.stride, conv.dilation, conv.groups
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, *how, "leaky_relu", [self._slope], ""
        )
        return made


class _InRows(nn.Module):
    """`WideBlock`; on a CPU its widest map is made of some rows at a time, in the cache."""

    def __init__(self, block: WideBlock) -> None:
        super().__init__()
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        expand, reduce, spread = self.residual
        most = _MOST_PX // x.shape[3] if x.device.type == "cpu" else x.shape[2]
        rows = torch.split(x, max(1, most), dim=2)
        narrow = torch.cat([reduce(expand(part)) for part in rows], dim=2)
        made: Tensor = spread(narrow)
        return made.add_(middle(x, *made.shape[2:]))


class _InWindows(nn.Module):
    """`WindowAttention`; on a CPU a few windows and queries at a time, the scores in the cache."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        if x.device.type != "cpu":
            return cast(Tensor, attention(x))
        window = attention.window
        rows = max(1, _MOST_PX // x.shape[3] // window) * window
        return torch.cat([self._of_rows(part) for part in torch.split(x, rows, dim=2)], dim=2)

    def _of_rows(self, x: Tensor) -> Tensor:
        attention = self.attention
        window = attention.window
        query, key, value = (
            windows_from_map(part(x), window)[:, 0]
            for part in (attention.query, attention.key, attention.value)
        )
        made = map_from_windows(_attended(query, key, value), x.shape, window)
        return torch.addcmul(x, attention.gamma, made)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query @ key') @ value: [n, tokens, d], [n, tokens, d], [n, tokens, c] -> the last."""
    n, tokens, _ = query.shape
    together = max(1, min(n, _MOST_SCORES // tokens**2))
    queries = min(tokens, max(1, _MOST_SCORES // tokens))
    scores = query.new_empty(together, queries, tokens)
    made = torch.empty_like(value)
    for i in range(0, n, together):
        keys, values = key[i : i + together].transpose(1, 2), value[i : i + together]
        for j in range(0, tokens, queries):
            asked = query[i : i + together, j : j + queries]
            some = scores[: len(asked), : asked.shape[1]]
            torch.bmm(asked, keys, out=some)
            torch.softmax(some, -1, out=some)
            torch.bmm(some, values, out=made[i : i + together, j : j + queries])
    return made


class _SmallOutput(nn.Module):
    """`SubPixelOutput` with its low-resolution weights made once, and its kernel cut into rows.

    A 5 x 5 convolution to 12 channels is one of 1 x 5 to 60, whose five groups are then added from
    row to row: the same sum, and 60 channels fill a vector unit better than 12.
    """

    def __init__(self, output: SubPixelOutput) -> None:
        super().__init__()
        weight, bias = (each.detach() for each in output.low_resolution_weights())
        made, seen, size, _ = weight.shape
        self.rows = nn.Conv2d(seen, size * made, (1, size), padding=(0, size // 2), bias=False)
        self.add = nn.Conv2d(size * made, made, (size, 1), padding=(size // 2, 0))
        by_row = weight.permute(2, 0, 1, 3).reshape(self.rows.weight.shape)
        own = torch.einsum("op,jk->ojpk", torch.eye(made), torch.eye(size))
        self.rows.weight = nn.Parameter(by_row, requires_grad=False)
        self.add.weight = nn.Parameter(own.reshape(self.add.weight.shape), requires_grad=False)
        self.add.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.add(self.rows(x)), 2)
