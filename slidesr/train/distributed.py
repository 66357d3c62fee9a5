"""Data-parallel training across the processes started by torchrun; a single one without it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

# Its functions take the default group, as of their import, as a default argument. AdamW's first
# step imports it, and a group that exists by then outlives destroy_process_group: its threads run
# into the end of the interpreter, and now and then abort the process.
import torch.distributed.nn.functional
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Rank, number of processes, and this process's device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that validates, saves and reports."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Averages the gradients over all processes, in one all-reduce."""
        self._average([p.grad for p in module.parameters() if p.grad is not None])

    def average_buffers(self, module: nn.Module) -> None:
        """Averages the running statistics of batch norm over all processes."""
        self._average([buffer for buffer in module.buffers() if buffer.is_floating_point()])

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes."""
        if self.size == 1:
            return list(map(float, values))
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def wait(self) -> None:
        """Waits until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def _average(self, tensors: list[Tensor]) -> None:
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def joined_processes() -> Iterator[World]:
    """Joins torchrun's process group, one GPU per process if available; or runs alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else None
    if device is not None:
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        rank = dist.get_rank() if size > 1 else 0
        yield World(rank, size, device or torch.device("cpu"))
    finally:
        if size > 1:
            dist.destroy_process_group()
