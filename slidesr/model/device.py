"""What a network runs on: a device, a precision, threads, and memory that is kept for it."""

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
    """What a model runs on: cpu, cuda or cuda:N; fp32 or bf16; tiles a batch on a GPU."""

    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = BATCH_SIZE

    @classmethod
    def choose(
        cls, device: str = "auto", precision: str = "auto", batch_size: int = BATCH_SIZE
    ) -> Engine:
        """Resolves `auto`: a GPU where torch sees one, bf16 where the device has it in hardware."""
        device = _device(device)
        if batch_size < 1:
            raise RefusedError(f"batch size {batch_size} is not positive")
        return cls(device, _precision(precision, device), batch_size)


def devices(names: str) -> list[str]:
    """The devices of this machine that a user names: one, several with commas, or all GPUs.

    Raises RefusedError for those that are not there, and for several kinds at once.
    """
    several = [_device(name) for name in names.split(",")]
    if len({name.partition(":")[0] for name in several}) > 1:
        raise RefusedError(f"device {names!r}: several devices must be of one kind")
    if several == ["cuda"]:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return several


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to bf16 where the device has bf16 in hardware; elsewhere fp32.

    A CPU that emulates bf16 takes five times as long with it as with fp32.
    """
    has_bf16 = _precision("auto", device.type) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16)


def use_threads(count: int) -> None:
    """How many threads the network has on a CPU. The bytes are the same for any number."""
    torch.set_num_threads(count)


@cache
def keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks for the next tile instead of returning them at once.

    What a network makes some rows at a time are blocks of 5-15 MB; with fresh pages for each it
    takes 2-4% longer. (Whole maps, which `nets.ready` keeps itself, would take twice as long.) It
    helps in the main thread: other threads' heaps end at 64 MB. Elsewhere than on glibc nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def processor() -> str:
    """The processor's name where Linux tells it."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as told:
        for line in told:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"
