"""The arithmetic cost of a generator, and the peak convolution throughput of the machine."""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F

from slidesr.nets.generator import GeneratorSpec


def flops_per_px(spec: GeneratorSpec) -> float:
    """FLOP per source pixel of the paper's formulation; halos and folding are not counted.

    >>> round(flops_per_px(GeneratorSpec(scale=4)) / 1e6, 2)
    3.75
    """
    c, wide, narrow = spec.channels, spec.channels * spec.expansion, int(0.8 * spec.channels)
    body = spec.blocks * (c * wide + wide * narrow + 9 * narrow * c)
    macs = 81 * 3 * c + body + 25 * c * c + c * (c + 2 * c // 8)
    macs += spec.window**2 * (c + c // 8)
    macs += sum(4**stage * 9 * c * 4 * c for stage in range(spec.stages))
    return float(2 * (macs + spec.scale**2 * 81 * c * 3))


@torch.inference_mode()
def convolution_ceiling(device: str, precision: str) -> float:
    """Measures FLOP/s of a 3x3 convolution, 64 to 64 channels, in fp32 or bf16; about a second."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(1, 64, 512, 512, dtype=dtype, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, dtype=dtype, device=device)
    weight = weight.contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        F.conv2d(x, weight, padding=1)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * 64 * 64 * 9 * 512 * 512 / statistics.median(times[2:])
