"""Division of an image into overlapping patches along one axis, in source pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """A patch from `start` to `stop`, of which `first` to `last` is kept."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def seen(self) -> slice:
        return slice(self.start, self.stop)

    def kept(self, scale: int) -> slice:
        """The kept part, in the whole output."""
        return slice(self.first * scale, self.last * scale)

    def inside(self, scale: int) -> slice:
        """The kept part, in the output of this patch."""
        return slice((self.first - self.start) * scale, (self.last - self.start) * scale)


def spans(side_px: int, patch_px: int, overlap_px: int) -> list[Span]:
    """Covers a side with patches, the last moved inwards; overlaps are split in half.

    >>> spans(96, 64, 32)
    [Span(start=0, stop=64, first=0, last=48), Span(start=32, stop=96, first=48, last=96)]
    """
    last = side_px - patch_px
    if last < 0:
        raise ValueError(f"a side of {side_px} px is smaller than a patch of {patch_px} px")
    starts = [*range(0, last, patch_px - overlap_px), last]
    borders = [0, *((a + patch_px + b) // 2 for a, b in pairwise(starts)), side_px]
    return [
        Span(start, start + patch_px, *kept)
        for start, kept in zip(starts, pairwise(borders), strict=True)
    ]


def interior(patches: Sequence[Span], margin_px: int) -> NDArray[np.bool_]:
    """Marks positions at least `margin_px` inside every patch that contains them: bool[side]."""
    place = np.arange(patches[-1].stop)
    far = np.ones(len(place), bool)
    for patch in patches:
        holds = (place >= patch.start) & (place < patch.stop)
        deep = (place >= patch.start + margin_px) & (place < patch.stop - margin_px)
        far &= deep | ~holds
    return far
