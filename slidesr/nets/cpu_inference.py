"""A folded generator at work: on a CPU in rows that fit a cache, in place, in memory it keeps."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import (
    SubPixelOutput,
    WindowAttention,
    map_from_windows,
    middle,
    windows_from_map,
)

_MOST_VALUES = 1 << 22  # of a map at a time: 8 MB in bf16
_MOST_SCORES = 1 << 21  # of attention at a time: 4 MB in bf16
_MOST_OCTAVES = 100.0  # of a score: floats hold 2**100 and 2**-100, and sums of many
_VECTOR = 16  # floats in a vector unit


def _fused_convolution() -> Callable[..., Tensor] | None:
    """oneDNN's convolution with a fused activation; None if this build of torch lacks it.

    The operator is private: torch.compile emits it, and another version may rename it. Without it
    convolution and activation run one after the other, which is slower and differs in last bits.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    operator: Callable[..., Tensor] | None = getattr(
        torch.ops.mkldnn, "_convolution_pointwise", None
    )
    return operator


_FUSED_CONVOLUTION = _fused_convolution()


class InferenceGenerator(Generator):
    """`Generator` for inference: `nets.folding.folded` makes it of a trained one.

    On a CPU the maps that are as large as a tile lie in memory that the next tile takes over. So a
    run takes what its largest tile takes, and what `attended` gives is lost when it is called
    again. One thread at a time.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__(spec)
        self._memory = _Memory()

    def _features(self, x: Tensor) -> Tensor:
        head = self._made("features", [self.head], x.to(next(self.parameters()).dtype))
        made = self._memory.like("body", head, head.shape).copy_(head)
        for block in self.body:
            *inner, last = cast(nn.Sequential, block.residual)
            made = _added(made, last, self._made("inner", inner, made))
        return _added(head, self.fuse, made)

    def _enlarge(self, x: Tensor, attended: Tensor) -> Tensor:
        *doubles, last = self.up
        made, output = attended, cast(FoldedOutput, self.output)
        for left, double in zip(range(len(doubles))[::-1], doubles, strict=True):
            made = self._doubled(("body", "inner")[left % 2], double, made)
        rows = self._made("inner", [last, output.rows], made)
        return self._finished(x, F.pixel_shuffle(output.add(rows), 2))

    def _made(self, name: str, layers: Sequence[nn.Module], x: Tensor) -> Tensor:
        """What layers make of a map one after another, in the memory of that name."""
        if not _goes_in_rows(layers, x):
            return cast(Tensor, nn.Sequential(*layers)(x))
        made = self._memory.like(name, x, _shape(layers, x))
        for rows, part in _in_rows(layers, x):
            made[:, :, rows] = part
        return made

    def _doubled(self, name: str, double: nn.Module, x: Tensor) -> Tensor:
        """`double` and a pixel shuffle whose sub-pixels are whole groups of channels."""
        n, channels, height, width = _shape([double], x)
        each = channels // 4
        made = self._memory.like(name, x, (n, each, 2 * height, 2 * width))
        pixels = made.permute(0, 2, 3, 1).view(n, height, 2, width, 2, each)
        for rows, part in _in_rows([double], x):
            groups = part.permute(0, 2, 3, 1).reshape(n, -1, width, 2, 2, each)
            pixels[:, rows] = groups.transpose(2, 3)
        return made


class _Memory:
    """Memory for maps, by name, as large as the largest yet.

    It comes straight from the system: in the heap maps of many shapes leave holes.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def like(self, name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
        """A map of another's kind, channels_last; on a GPU, whose memory torch keeps, a new one."""
        n, channels, height, width = shape
        values = n * channels * height * width
        if x.device.type != "cpu":
            return x.new_empty(n, height, width, channels).permute(0, 3, 1, 2)
        kept = self._kept.get(name)
        if kept is None or kept.dtype != x.dtype or kept.numel() < values:
            self._kept.pop(name, None)
            with torch.inference_mode(False):  # or it could not be written to outside of it
                kept = torch.frombuffer(_pages(values * x.itemsize), dtype=x.dtype)
            self._kept[name] = kept
        return kept[:values].view(n, height, width, channels).permute(0, 3, 1, 2)


def _pages(size: int) -> mmap.mmap:
    if os.name == "posix":
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


class ActivatedConv(nn.Module):
    """A convolution and the activation behind it: one pass over memory, by oneDNN on a CPU.

    There it is what torch's own compiler makes of such a pair.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.ReLU | nn.PReLU) -> None:
        super().__init__()
        self.conv = conv
        self._slope = activation.weight.item() if isinstance(activation, nn.PReLU) else 0.0
        self._post_op = ("leaky_relu", [self._slope], "") if self._slope else ("relu", [], "")

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if x.device.type != "cpu" or x.dtype == torch.float64 or _FUSED_CONVOLUTION is None:
            return F.leaky_relu_(conv(x), self._slope)
        geometry = conv.padding, conv.stride, conv.dilation, conv.groups
        return _FUSED_CONVOLUTION(x, conv.weight, conv.bias, *geometry, *self._post_op)


class InPlaceWindowAttention(nn.Module):
    """`WindowAttention`; on a CPU in place, a few windows at a time, the scores in the cache."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        attention, window = self.attention, self.attention.window
        if x.device.type != "cpu":
            return cast(Tensor, attention(x))
        most = max(1, _MOST_VALUES // (x.shape[1] * x.shape[3] * window))
        for cells in _even(x.shape[2] // window, most):
            part = x[:, :, cells.start * window : cells.stop * window]
            query, key, value = (
                windows_from_map(layer(part), window)[:, 0]
                for layer in (attention.query, attention.key, attention.value)
            )
            made = map_from_windows(_attended(query, key, value), part.shape, window)
            part.addcmul_(attention.gamma, made)
        return x


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Powers of 2 of query @ key', of which each row is made to add up to 1, times value.

    [n, tokens, d], [n, tokens, d], [n, tokens, c] -> the last.
    """
    n, tokens, _ = query.shape
    together = max(1, min(n, _MOST_SCORES // tokens**2))
    queries = min(tokens, max(1, _MOST_SCORES // tokens))
    scores = query.new_empty(together, queries, tokens)
    made, total = torch.empty_like(value), value.new_empty(n, tokens, 1)
    largest = (query.norm(dim=-1).amax(-1) * key.norm(dim=-1).amax(-1)).tolist()
    for i in range(0, n, together):
        keys, values = key[i : i + together].transpose(1, 2), value[i : i + together]
        for j in range(0, tokens, queries):
            here = slice(i, i + together), slice(j, j + queries)
            asked = query[here]
            some = scores[: len(asked), : asked.shape[1]]
            torch.bmm(asked, keys, out=some)
            _powers_of_2(some, largest[i : i + together])
            torch.sum(some, -1, keepdim=True, out=total[here])
            torch.bmm(some, values, out=made[here])
    return made.div_(total)


def _powers_of_2(scores: Tensor, largest: Sequence[float]) -> None:
    """In place, and in each row but for a factor.

    A softmax takes a row's largest score from all of them, for their powers might overflow. Windows
    where no score can be that `largest` are spared that pass over memory.
    """
    for window, most in zip(scores, largest, strict=True):
        if not most < _MOST_OCTAVES:
            window -= window.amax(-1, keepdim=True)
    torch.exp2(scores, out=scores)


class FoldedOutput(nn.Module):
    """`SubPixelOutput` with its low-resolution weights made once, and its kernel cut into rows.

    A 5 x 5 convolution to 12 channels is one of 1 x 5 to 60, whose five groups are then added from
    row to row: the same sum, and 60 channels fill a vector unit better than 12. Four more, which
    are zero, fill it wholly. A pixel shuffle follows.
    """

    def __init__(self, output: SubPixelOutput) -> None:
        super().__init__()
        weight, bias = (each.detach() for each in output.low_resolution_weights())
        made, seen, size, _ = weight.shape
        idle = -size * made % _VECTOR
        width = size * made + idle
        self.rows = nn.Conv2d(seen, width, (1, size), padding=(0, size // 2), bias=False)
        self.add = nn.Conv2d(width, made, (size, 1), padding=(size // 2, 0))
        by_row = weight.permute(2, 0, 1, 3).reshape(size * made, seen, 1, size)
        by_row = F.pad(by_row, (0, 0) * 3 + (0, idle))
        own = torch.einsum("op,jk->ojpk", torch.eye(made), torch.eye(size))
        own = F.pad(own.reshape(made, size * made, size, 1), (0, 0) * 2 + (0, idle))
        self.rows.weight = nn.Parameter(by_row, requires_grad=False)
        self.add.weight = nn.Parameter(own, requires_grad=False)
        self.add.bias = nn.Parameter(bias, requires_grad=False)


def _added(x: Tensor, layer: nn.Module, seen: Tensor) -> Tensor:
    """The middle of a map, to which is added, in place, what a layer makes of another."""
    made = middle(x, *_shape([layer], seen)[2:])
    for rows, part in _in_rows([layer], seen):
        made[:, :, rows] += part
    return made


def _in_rows(layers: Sequence[nn.Module], x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """What layers make of a map, some rows at a time where they can be: which rows, and those."""
    height, width = _shape(layers, x)[2:]
    widest = max(_conv(layer).out_channels for layer in layers)
    most = max(1, _MOST_VALUES // (widest * width)) if _goes_in_rows(layers, x) else height
    for rows in _even(height, most):
        part = x[:, :, rows.start : rows.stop + x.shape[2] - height]
        for layer in layers:
            part = layer(part)
        yield rows, part


def _even(count: int, most: int) -> Iterator[slice]:
    """Parts of about one size: for a last one of a few rows torch takes other kernels.

    They give other last bits, and where parts end depends on the tile (`use_mkldnn` in
    ATen/native/Convolution.cpp).

    >>> [f"{part.start}:{part.stop}" for part in _even(10, 4)]
    ['0:3', '3:6', '6:10']
    """
    parts = -(-count // most)
    for index in range(parts):
        yield slice(count * index // parts, count * (index + 1) // parts)


def _goes_in_rows(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """On a CPU, unless convolutions pad: then each part would get zeros above and below."""
    return x.device.type == "cpu" and not any(_conv(layer).padding[0] for layer in layers)


def _shape(layers: Sequence[nn.Module], x: Tensor) -> tuple[int, int, int, int]:
    """Of what they make of a map."""
    n, channels, height, width = x.shape
    for conv in map(_conv, layers):
        channels = conv.out_channels
        height += 2 * int(conv.padding[0]) - conv.kernel_size[0] + 1
        width += 2 * int(conv.padding[1]) - conv.kernel_size[1] + 1
    return n, channels, height, width


def _conv(layer: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, layer.conv if isinstance(layer, ActivatedConv) else layer)
