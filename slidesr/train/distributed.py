"""The processes that train one model together, as torchrun starts them; mostly it is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process among those that train together, and what it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """The first process validates, saves and reports."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Gives every process the mean of all gradients, in one message."""
        self._average([p.grad for p in module.parameters() if p.grad is not None])

    def average_buffers(self, module: nn.Module) -> None:
        """The same for what batch norm has gathered."""
        self._average([buffer for buffer in module.buffers() if buffer.is_floating_point()])

    def _average(self, tensors: list[Tensor]) -> None:
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def joined_world() -> Iterator[World]:
    """Joins the processes of `torchrun`, a GPU each if there are any; alone without torchrun."""
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
