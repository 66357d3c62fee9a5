"""The trial reading: opens a slide and reads a little of each level; run in the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slidesr.geometry import Box, Size
from slidesr.slide._slide import open_slide

_MOST_LEVELS = 12
_SIDE_PX = 16


def read_samples(path: Path) -> None:
    """Reads three small boxes of each level, as many tiles. Raises what the readers raise."""
    with open_slide(path, window="auto", fill=True) as slide:
        for level in range(min(_MOST_LEVELS, len(slide.levels))):
            frame = slide.frame(level=level)
            for box in _sample_boxes(frame.size):
                frame.read(box)


def _sample_boxes(size: Size) -> Iterator[Box]:
    """The top left corner, the middle and the bottom right corner of a level."""
    for share in (0, 0.5, 1):
        x, y = (int(share * max(0, side - _SIDE_PX)) for side in (size.width, size.height))
        yield Box(x, y, _SIDE_PX, _SIDE_PX).clipped(size.box)
