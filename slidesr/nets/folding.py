"""Makes a trained generator ready for use: the same numbers from fewer, plainer operations."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slidesr.nets.generator import Generator
from slidesr.nets.layers import SubPixelOutput


def folded(generator: Generator, dtype: torch.dtype = torch.float32) -> Generator:
    """A frozen copy in `dtype`: weight norm and batch norm become part of the convolutions."""
    ready = Generator(generator.spec)  # not deepcopy: copies of a parametrized module share a class
    ready.load_state_dict(generator.state_dict())
    ready.eval().requires_grad_(False)
    for module in list(ready.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    ready.output = _SmallOutput(ready.output)  # type: ignore[assignment]
    return ready.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for index, (conv, norm) in enumerate(pairwise(layers)):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[index], layers[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


class _SmallOutput(nn.Module):
    """`SubPixelOutput` with its low-resolution weights made once."""

    def __init__(self, output: SubPixelOutput) -> None:
        super().__init__()
        weight, bias = output.low_resolution_weights()
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding="same")
        self.conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.conv.bias = nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), 2)
