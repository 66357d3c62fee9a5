"""The geometric self-ensemble (EDSR, Lim et al. 2017, arXiv 1707.02921)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """Quarter turns to the left, then mirrored or not, of maps [n, c, h, w]."""

    quarters: int
    mirrored: bool

    def there(self, x: Tensor) -> Tensor:
        turned = torch.rot90(x, self.quarters, (2, 3))
        return turned.flip(3) if self.mirrored else turned

    def back(self, x: Tensor) -> Tensor:
        straight = x.flip(3) if self.mirrored else x
        return torch.rot90(straight, -self.quarters, (2, 3))


TURNS = tuple(Turn(quarters, mirrored) for mirrored in (False, True) for quarters in range(4))
"""The eight symmetries of a square (D4)."""


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
