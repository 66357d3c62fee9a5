"""The protocol of independent readers: facts about a file, and its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from slidesr.geometry import Box, Mpp, Pixels, Size


@dataclass(frozen=True)
class Facts:
    """What a reader finds in a file: the level sizes; of level 0 the resolution and the colours.

    `colour_space` is that of the stored samples, by the names of ICC: RGB, GRAY, CMYK, Lab.
    """

    levels: tuple[Size, ...]
    mpp: Mpp | None = None
    magnification: float | None = None
    icc_profile: bytes | None = None
    colour_space: str = "RGB"


class Reader(Protocol):
    """An open file, as one library sees it."""

    @property
    def name(self) -> str:
        """The library and its version."""
        ...

    @property
    def facts(self) -> Facts: ...

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level: u8[h, w, 3]. Raises UnreadableError."""
        ...

    def interpolates(self, level: int) -> bool:
        """Whether the reader returns interpolated pixels of the level instead of its own."""
        ...

    def close(self) -> None: ...


class UnreadableError(Exception):
    """The reader cannot open this file or decode this part of it."""


class NotInstalledError(Exception):
    """The reader is not installed; the message says how to install it."""
