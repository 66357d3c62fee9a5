"""What every independent reader is asked: what a file holds, and pixels of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from slidesr.geometry import Box, Mpp, Pixels, Size


@dataclass(frozen=True)
class Facts:
    """What a reader sees of a file: the sizes of its levels, and of level 0 what is said of it."""

    levels: tuple[Size, ...]
    mpp: Mpp | None = None
    magnification: float | None = None


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
        """Whether the reader cannot show the level's own pixels, only what lies between them."""
        ...

    def close(self) -> None: ...


class UnreadableError(Exception):
    """The reader does not open this file, or does not decode this part of it."""


class NotInstalledError(Exception):
    """The reader is not here; the message says how to get it."""


def reason(error: Exception) -> str:
    """Another library's words on one line, at most 120 characters, printable."""
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(each if each.isprintable() else "?" for each in words)[:120]
