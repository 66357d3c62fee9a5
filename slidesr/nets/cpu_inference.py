"""CPU inference with a folded generator: by rows that fit the cache, in reused buffers."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from math import gcd
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

_MOST_VALUES = 1 << 22  # of a feature map at a time: 8 MB in bf16
_MOST_SCORES = 1 << 21  # attention scores at a time: 4 MB in bf16
_MOST_PARTS = 32  # of a window's queries, for as many threads
_LEAST_QUERIES = 8  # in a part: MKL multiplies fewer rows by another kernel, with other last bits
_MOST_OCTAVES = 100.0  # of a score: 2**100, 2**-100 and long sums of them fit a float
_VECTOR = 16  # floats in a SIMD register
_UNROLLED = 2 * _VECTOR  # values in a step of torch's elementwise loops


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
    """A `Generator` for inference, built from a trained one by `nets.inference_form.folded`.

    On a CPU, tile-sized feature maps live in buffers that are reused for the next tile: memory is
    that of the largest tile, and the result of `attended` is overwritten by the next call. Not
    thread-safe.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__(spec)
        self._memory = _Memory()

    def _features(self, x: Tensor) -> Tensor:
        head = self._apply_in_rows("features", [self.head], x.to(next(self.parameters()).dtype))
        features = self._memory.like("body", head, head.shape).copy_(head)
        for block in self.body:
            *inner, last = cast(nn.Sequential, block.residual)
            hidden = self._apply_in_rows("inner", inner, features)
            features = _add_in_place(features, last, hidden)
        return _add_in_place(head, self.fuse, features)

    def _enlarge(self, x: Tensor, attended: Tensor) -> Tensor:
        *doubles, last = self.up
        features, output = attended, cast(FoldedOutput, self.output)
        for left, double in zip(range(len(doubles))[::-1], doubles, strict=True):
            features = self._doubled(("body", "inner")[left % 2], double, features)
        rows = self._apply_in_rows("inner", [last, output.rows], features)
        return self._finished(x, F.pixel_shuffle(output.add(rows), 2))

    def _apply_in_rows(self, name: str, layers: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Applies layers one after another; the result is in the buffer `name`."""
        if not _goes_in_rows(layers, x):
            return cast(Tensor, nn.Sequential(*layers)(x))
        output = self._memory.like(name, x, _shape(layers, x))
        for rows, part in _in_rows(layers, x):
            output[:, :, rows] = part
        return output

    def _doubled(self, name: str, double: nn.Module, x: Tensor) -> Tensor:
        """Applies `double`, then a pixel shuffle; the channels are grouped by sub-pixel."""
        n, channels, height, width = _shape([double], x)
        each = channels // 4
        output = self._memory.like(name, x, (n, each, 2 * height, 2 * width))
        pixels = output.permute(0, 2, 3, 1).view(n, height, 2, width, 2, each)
        for rows, part in _in_rows([double], x):
            groups = part.permute(0, 2, 3, 1).reshape(n, -1, width, 2, 2, each)
            pixels[:, rows] = groups.transpose(2, 3)
        return output


class _Memory:
    """Named buffers for feature maps, each as large as the largest map so far.

    They are mapped directly by the system: maps of many shapes would fragment the heap.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def like(self, name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
        """An uninitialised channels_last map of x's dtype; on a GPU from torch's allocator."""
        n, channels, height, width = shape
        values = n * channels * height * width
        if x.device.type != "cpu":
            return x.new_empty(n, height, width, channels).permute(0, 3, 1, 2)
        kept = self._kept.get(name)
        if kept is None or kept.dtype != x.dtype or kept.numel() < values:
            self._kept.pop(name, None)
            with torch.inference_mode(
                False
            ):  # inference tensors cannot be written to outside inference mode
                kept = torch.frombuffer(_pages(values * x.itemsize), dtype=x.dtype)
            self._kept[name] = kept
        return kept[:values].view(n, height, width, channels).permute(0, 3, 1, 2)


def _pages(size: int) -> mmap.mmap:
    if os.name == "posix":
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


class ActivatedConv(nn.Module):
    """A convolution followed by its activation, fused by oneDNN on a CPU.

    torch.compile emits the same operator for such a pair.
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
    """`WindowAttention`; on a CPU in place, a few windows at a time to keep scores in cache."""

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
            attended = map_from_windows(_attended(query, key, value), part.shape, window)
            part.addcmul_(attention.gamma, attended)
        return x


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with a base-2 softmax: [n, tokens, d] twice, [n, tokens, c] -> [n, tokens, c]."""
    n, tokens, _ = query.shape
    together = max(1, min(n, _MOST_SCORES // tokens**2))
    queries = min(tokens, max(1, _MOST_SCORES // tokens // _MOST_PARTS) * _MOST_PARTS)
    scores = query.new_empty(together, queries, tokens)
    attended, total = torch.empty_like(value), value.new_empty(n, tokens, 1)
    largest = (query.norm(dim=-1).amax(-1) * key.norm(dim=-1).amax(-1)).tolist()
    for i in range(0, n, together):
        keys, values = key[i : i + together].transpose(1, 2), value[i : i + together]
        for j in range(0, tokens, queries):
            here = slice(i, i + together), slice(j, j + queries)
            block = query[here]
            some = scores[: len(block), : block.shape[1]]
            torch.bmm(block, keys, out=some)
            _powers_of_2(some, largest[i : i + together])
            torch.sum(some, -1, keepdim=True, out=total[here])
            _weighted_sums(some, values, attended[here])
    return attended.div_(total)


def _weighted_sums(scores: Tensor, values: Tensor, out: Tensor) -> None:
    """`torch.bmm(scores, values, out=out)`, in fp32 not as a batch of one if the window is even.

    MKL divides the sums of one large product among its threads, so their last bits would depend on
    the number of threads and on how many windows a call has. In a batch each product has one
    thread.
    """
    if len(scores) == 1 and scores.dtype == torch.float32:
        queries = scores.shape[1]
        parts = gcd(queries, max(1, min(_MOST_PARTS, queries // _LEAST_QUERIES)))
        scores, out = (each.view(parts, -1, each.shape[2]) for each in (scores, out))
        values = values.expand(parts, -1, -1)
    torch.bmm(scores, values, out=out)


def _powers_of_2(scores: Tensor, largest: Sequence[float]) -> None:
    """Replaces scores by their powers of 2, up to a common factor in each row.

    A softmax subtracts each row's maximum first, because the powers might overflow. Windows whose
    bound `largest` rules that out skip this pass over memory.

    torch has one routine for whole SIMD vectors and another for the rest of each thread's share,
    with other last bits: so all shares but the last are whole vectors.
    """
    share = _UNROLLED * torch.get_num_threads()
    for window, most in zip(scores, largest, strict=True):
        if not most < _MOST_OCTAVES:
            window -= window.amax(-1, keepdim=True)
        for part in window.view(-1).tensor_split([window.numel() // share * share]):
            torch.exp2(part, out=part)


class FoldedOutput(nn.Module):
    """`SubPixelOutput` with precomputed low-resolution weights and its kernel split into rows.

    A 5 x 5 convolution to 12 channels equals a 1 x 5 convolution to 60 whose five groups are then
    summed over rows. 60 channels fill SIMD registers better than 12; four zero channels make them a
    multiple of the register. A pixel shuffle follows.
    """

    def __init__(self, output: SubPixelOutput) -> None:
        super().__init__()
        weight, bias = (each.detach() for each in output.low_resolution_weights())
        outputs, inputs, size, _ = weight.shape
        idle = -size * outputs % _VECTOR
        width = size * outputs + idle
        self.rows = nn.Conv2d(inputs, width, (1, size), padding=(0, size // 2), bias=False)
        self.add = nn.Conv2d(width, outputs, (size, 1), padding=(size // 2, 0))
        by_row = weight.permute(2, 0, 1, 3).reshape(size * outputs, inputs, 1, size)
        by_row = F.pad(by_row, (0, 0) * 3 + (0, idle))
        own = torch.einsum("op,jk->ojpk", torch.eye(outputs), torch.eye(size))
        own = F.pad(own.reshape(outputs, size * outputs, size, 1), (0, 0) * 2 + (0, idle))
        self.rows.weight = nn.Parameter(by_row, requires_grad=False)
        self.add.weight = nn.Parameter(own, requires_grad=False)
        self.add.bias = nn.Parameter(bias, requires_grad=False)


def _add_in_place(x: Tensor, layer: nn.Module, hidden: Tensor) -> Tensor:
    """Adds layer(hidden) to the centre of x in place, and returns that centre."""
    output = middle(x, *_shape([layer], hidden)[2:])
    for rows, part in _in_rows([layer], hidden):
        output[:, :, rows] += part
    return output


def _in_rows(layers: Sequence[nn.Module], x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Applies layers to a few rows at a time, if possible; yields (row slice, output rows)."""
    height, width = _shape(layers, x)[2:]
    widest = max(_conv(layer).out_channels for layer in layers)
    most = max(1, _MOST_VALUES // (widest * width)) if _goes_in_rows(layers, x) else height
    for rows in _even(height, most):
        part = x[:, :, rows.start : rows.stop + x.shape[2] - height]
        for layer in layers:
            part = layer(part)
        yield rows, part


def _even(count: int, most: int) -> Iterator[slice]:
    """Splits a range into parts of nearly equal size, at most `most` each.

    For a short last part torch would choose another kernel (`use_mkldnn` in
    ATen/native/Convolution.cpp), so the last bits would depend on the tile size.

    >>> [f"{part.start}:{part.stop}" for part in _even(10, 4)]
    ['0:3', '3:6', '6:10']
    """
    parts = -(-count // most)
    for index in range(parts):
        yield slice(count * index // parts, count * (index + 1) // parts)


def _goes_in_rows(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """On a CPU without padding; with it each part would get zeros above and below."""
    return x.device.type == "cpu" and not any(_conv(layer).padding[0] for layer in layers)


def _shape(layers: Sequence[nn.Module], x: Tensor) -> tuple[int, int, int, int]:
    """The shape of the layers' output."""
    n, channels, height, width = x.shape
    for conv in map(_conv, layers):
        channels = conv.out_channels
        height += 2 * int(conv.padding[0]) - conv.kernel_size[0] + 1
        width += 2 * int(conv.padding[1]) - conv.kernel_size[1] + 1
    return n, channels, height, width


def _conv(layer: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, layer.conv if isinstance(layer, ActivatedConv) else layer)
