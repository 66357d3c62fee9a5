"""The window of high-bit-depth slides: which samples become black and which white."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

_LARGEST = 65_535
_USUAL_BITS = (8, 10, 12, 14, 16)  # of a camera's samples, stored in 16 bits


@dataclass(frozen=True)
class Window:
    """Samples up to `low` become 0, those from `high` on 255, linear between; for all channels.

    Printed as `low,high`. Raises ValueError unless 0 <= low < high <= 65535.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= _LARGEST:
            raise ValueError(f"window {self} is not two rising values in 0..{_LARGEST}")

    def __str__(self) -> str:
        return f"{self.low},{self.high}"

    @classmethod
    def parse(cls, text: str) -> Window:
        """
        >>> Window.parse("0,4095")
        Window(low=0, high=4095)
        """
        low, _, high = text.partition(",")
        return cls(int(low), int(high))

    @classmethod
    def of_bits(cls, largest: int) -> Window:
        """The range of 8, 10, 12, 14 or 16 bits, the smallest that holds the largest sample.

        >>> Window.of_bits(4000), Window.of_bits(0)
        (Window(low=0, high=4095), Window(low=0, high=255))
        """
        return cls(0, next(2**bits - 1 for bits in _USUAL_BITS if largest < 2**bits))

    def to_8_bit(self, samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """u16 -> u8 of the same shape, rounded to the nearest."""
        return self._table[samples]

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        share = (np.arange(_LARGEST + 1) - self.low) / (self.high - self.low)
        table: NDArray[np.uint8] = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
        return table


WindowChoice: TypeAlias = Window | Literal["auto"] | None
"""`auto` is `Window.of_bits` of the largest sample found; None refuses samples of 16 bits."""
