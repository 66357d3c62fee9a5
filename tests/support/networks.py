"""Generators in all variants, their precisions, and a slow twin of their attention."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from slidesr.model.device import has_bf16, runs_bf16
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import WindowAttention

Make = Callable[[GeneratorSpec], Generator]

VARIANTS = [
    GeneratorSpec(4, "weight", 4, bicubic_skip=True, channels=16, blocks=2),
    GeneratorSpec(2, "batch", 8, bicubic_skip=True, channels=8, blocks=2),
    GeneratorSpec(2, "weight", 4, bicubic_skip=False, channels=8, blocks=1),
    GeneratorSpec(8, "batch", 4, bicubic_skip=False, channels=8, blocks=1),
    GeneratorSpec(4, "batch", 4, bicubic_skip=True, block="plain", channels=8, blocks=2),
    GeneratorSpec(2, "weight", 0, bicubic_skip=False, block="plain", channels=8, blocks=2),
]
PRECISIONS = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(not has_bf16(), reason="the processor has no bf16 units"),
    ),
]

needs_bf16 = pytest.mark.skipif(not runs_bf16(), reason="the processor cannot compute bf16")


def name_of(spec: GeneratorSpec) -> str:
    return f"{spec.architecture}-x{spec.scale}-{spec.norm}"


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attention(channels: int, window: int, dtype: torch.dtype) -> WindowAttention:
    """A layer that takes part."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = WindowAttention(channels, window).to(dtype)
    nn.init.constant_(layer.gamma, 0.7)
    return layer.requires_grad_(False)


def attention_twin(layer: WindowAttention, x: Tensor) -> Tensor:
    """One window at a time: token i becomes x_i + gamma * sum over j of softmax(q_i . k_j) v_j."""
    out, window = x.clone(), layer.window
    n, channels, height, width = x.shape
    tops, lefts = range(0, height, window), range(0, width, window)
    for image, top, left in product(range(n), tops, lefts):
        cell = x[image, :, top : top + window, left : left + window]
        tokens = cell.reshape(channels, -1)
        query, key, value = (
            part.weight[:, :, 0, 0] @ tokens + part.bias[:, None]  # type: ignore[index]
            for part in (layer.query, layer.key, layer.value)
        )
        assert len(query) == channels // 8
        scores = query.T @ key  # row i: what token i asks of each j
        scores = torch.exp(scores - scores.amax(dim=1, keepdim=True))
        shares = scores / scores.sum(dim=1, keepdim=True)
        attended = (value @ shares.T).reshape(cell.shape)
        out[image, :, top : top + window, left : left + window] = cell + layer.gamma * attended
    return out
