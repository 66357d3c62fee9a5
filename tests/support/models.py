"""Models and their inputs, small enough for a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator, GeneratorSpec


def tiny_generator(scale: int, window: int = 8) -> tuple[ModelSpec, Generator]:
    """The real architecture at small size, with attention that counts."""
    torch.manual_seed(1)
    spec = GeneratorSpec(scale, window=window, bicubic_skip=True, channels=8, blocks=2)
    generator = Generator(spec).eval()
    attention: Any = generator.attention
    torch.nn.init.constant_(attention.gamma, 0.7)
    return ModelSpec("tiny", spec, "fidelity", (0.5, 1.0), "none"), generator


def golden_input(section: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """So much of it as becomes 192 px."""
    side = 192 // scale
    return section[200 : 200 + side, 300 : 300 + side]
