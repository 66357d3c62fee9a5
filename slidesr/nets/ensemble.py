"""The geometric self-ensemble (EDSR, Lim et al. 2017, arXiv 1707.02921)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """Maps [n, c, h, w] with rows and columns exchanged or not, then some of both flipped."""

    transposed: bool
    flipped: tuple[int, ...]

    def there(self, x: Tensor) -> Tensor:
        return (x.mT if self.transposed else x).flip(self.flipped)

    def back(self, x: Tensor) -> Tensor:
        straight = x.flip(self.flipped)
        return straight.mT if self.transposed else straight


TURNS = tuple(
    Turn(transposed, dims) for transposed in (False, True) for dims in ((), (2,), (3,), (2, 3))
)
"""The symmetries of a square (D4): four quarter turns, each mirrored or not."""


def averaged(enlarged: Callable[[Tensor], Tensor], low: Tensor) -> Tensor:
    """The mean of the eight turns of `low`, each enlarged and turned back.

    Exact in tiles: a tile is whole attention windows with the same margin on all sides, so turned
    it has the windows of the turned image. f32[n, 3, h, w] -> what `enlarged` returns, of which
    three are in memory at a time.
    """
    first, *others = TURNS
    total = _pass(first, enlarged, low)
    for turn in others:
        total += _pass(turn, enlarged, low)
    return total.div_(len(TURNS))


def _pass(turn: Turn, enlarged: Callable[[Tensor], Tensor], low: Tensor) -> Tensor:
    turned = turn.there(low).contiguous(memory_format=torch.channels_last)
    return turn.back(enlarged(turned))
