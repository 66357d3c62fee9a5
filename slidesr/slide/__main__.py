"""Opens a slide and reads a little of each level; `slidesr.runtime.sandbox` runs it.

Whether the slide is any good is not asked: what is refused here is refused again by who opens it.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from slidesr.geometry import Box, Size
from slidesr.runtime.sandbox import MEMORY_BYTES, MEMORY_EXIT_CODE, SECONDS
from slidesr.slide._slide import open_slide

_MOST_LEVELS = 12
_SIDE_PX = 16


def main(path: Path) -> int:
    """The exit code: 0 where it was survived, another where that took too much memory."""
    logging.disable()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, SECONDS)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    try:
        with open_slide(path, fill=True) as slide:
            for level in range(min(_MOST_LEVELS, len(slide.levels))):
                frame = slide.frame(level=level)
                for box in _places(frame.size):
                    frame.read(box)
    except MemoryError:
        return MEMORY_EXIT_CODE
    except Exception:  # told by whoever opens it next
        return 0
    return 0


def _places(size: Size) -> Iterator[Box]:
    """The first corner, the middle and the last corner of a level: as many tiles."""
    for share in (0, 0.5, 1):
        x, y = (int(share * max(0, side - _SIDE_PX)) for side in (size.width, size.height))
        yield Box(x, y, _SIDE_PX, _SIDE_PX).clipped(size.box)


def _limit(kind: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # not every system has every limit
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
