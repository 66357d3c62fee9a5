"""Where a network runs: device, precision, threads, and the allocator's settings."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from slidesr.errors import RefusedError

BATCH_SIZE = 16  # tiles, on a GPU


@dataclass(frozen=True)
class Engine:
    """The device (cpu, cuda or cuda:N), precision (fp32 or bf16) and batch size on a GPU."""

    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = BATCH_SIZE

    @classmethod
    def choose(
        cls, device: str = "auto", precision: str = "auto", batch_size: int = BATCH_SIZE
    ) -> Engine:
        """Resolves `auto`: a GPU if torch sees one, bf16 if the device supports it in hardware."""
        device = _device(device)
        if batch_size < 1:
            raise RefusedError(f"batch size {batch_size} is not positive")
        return cls(device, _precision(precision, device), batch_size)


def devices(names: str) -> list[str]:
    """Parses a comma-separated list of devices; plain `cuda` means all GPUs.

    Raises RefusedError if a device does not exist or the list mixes CPU and GPU.
    """
    parsed = [_device(name) for name in names.split(",")]
    if len({name.partition(":")[0] for name in parsed}) > 1:
        raise RefusedError(f"device {names!r}: use CPU or GPUs, not both")
    if parsed == ["cuda"]:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return parsed


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocasts to bf16 if the device supports it in hardware, else stays in fp32.

    On a CPU without bf16 instructions, emulated bf16 is five times slower than fp32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_has_fast_bf16(device.type))


def training_format(device: torch.device) -> torch.memory_format:
    """The fastest layout for training convolutions: channels last only where bf16 is used.

    In fp32 on a CPU, oneDNN computes the gradient of a convolution's weights three times slower in
    channels last, which makes a whole step 1.2 (x4) to 1.3 times (x16) slower.
    """
    return torch.channels_last if _has_fast_bf16(device.type) else torch.contiguous_format


def use_threads(count: int) -> None:
    """Sets the number of CPU threads for the network. The output bytes do not depend on it."""
    torch.set_num_threads(count)


@cache
def keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks for reuse instead of returning them to the system.

    The network allocates blocks of 5-15 MB for each group of rows; fresh pages for each of them
    cost 2-4% of the run time. (Whole feature maps, which `nets.cpu_inference` reuses itself, would
    double it.) This helps in the main thread only: other threads' heaps are limited to 64 MB. Does
    nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def processor() -> str:
    """The processor's model name, from /proc/cpuinfo if there is one."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_bf16() -> bool:
    """Whether the CPU has AVX512-BF16 or AMX; False if this version of torch cannot say."""
    return has_amx() or _torch_says("_is_avx512_bf16_supported")


def runs_bf16() -> bool:
    """Whether the CPU computes bf16, in hardware or emulated, for which oneDNN needs AVX-512."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:  # private, and may move
        return True


def has_amx() -> bool:
    """Whether the CPU has AMX; False if this version of torch cannot say."""
    return _torch_says("_is_amx_tile_supported")


def _torch_says(check: str) -> bool:
    """Calls a private function of torch (2.6 has both), which may move or disappear."""
    return bool(getattr(torch.cpu, check, lambda: False)())


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise RefusedError(f"device {device!r}: not one of auto, cpu, cuda, cuda:N") from error
    if wanted.type not in ("cpu", "cuda"):
        raise RefusedError(f"device {device!r}: not one of auto, cpu, cuda, cuda:N")
    if wanted.type == "cuda" and not (0 <= (wanted.index or 0) < torch.cuda.device_count()):
        raise RefusedError(
            f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _precision(precision: str, device: str) -> str:
    if precision not in ("auto", "fp32", "bf16"):
        raise RefusedError(f"precision {precision!r}: not one of auto, fp32, bf16")
    if precision == "auto":
        return "bf16" if _has_fast_bf16(device) else "fp32"
    if precision == "bf16" and not device.startswith("cuda") and not runs_bf16():
        raise RefusedError("precision 'bf16': this processor cannot compute it; use fp32 or auto")
    return precision


def _has_fast_bf16(device: str) -> bool:
    """Whether a CPU or GPU has bf16 in hardware."""
    return torch.cuda.is_bf16_supported() if device.startswith("cuda") else has_bf16()
