"""Muon for convolutions (Jordan 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_FEWEST = 16  # a matrix with fewer rows or columns, such as the output's, is left to AdamW
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, chosen for few iterations
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Steps along the orthogonalised momentum of each convolution; AdamW for everything else.

    A kernel [out, in, h, w] is taken as a matrix [out, in * h * w], and all its directions are
    learnt at the same pace. Steps are scaled to the size of AdamW's (Liu 2025, arXiv 2502.16982,
    eq. 4), so both use the same learning rate. `torch.optim.Muon` is newer than the oldest torch
    supported here, and refuses kernels.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Takes one step, which uses up the gradients of the kernels."""
        for group in self.param_groups:
            for parameter in filter(_is_matrix, group["params"]):
                if parameter.grad is not None:
                    self._step_along(parameter, parameter.grad, group)
                    parameter.grad = None  # AdamW leaves it alone
        super().step()

    def _step_along(self, kernel: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[kernel]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
            state["step"] = torch.tensor(0.0)  # AdamW looks for it when it is loaded
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        matrix = gradient.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's look-ahead
        size = 0.2 * max(matrix.shape) ** 0.5
        kernel.mul_(1 - group["lr"] * group["weight_decay"])
        kernel.add_(orthogonalised(matrix).view_as(kernel), alpha=-group["lr"] * size)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Brings all singular values of f32[m, n] to about 1, by five Newton-Schulz iterations.

    Those below a thousandth of the matrix's norm stay smaller.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.T if is_tall else x
    return orthogonal


def _is_matrix(parameter: nn.Parameter) -> bool:
    rows = len(parameter)
    return parameter.ndim == 4 and min(rows, parameter.numel() // rows) >= _FEWEST
