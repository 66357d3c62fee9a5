"""Goes on beyond tiles of a slide that cannot be read: they are filled with its background."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Pixels, Size
from slidesr.slide._source import Source

_log = logging.getLogger(__name__)
_TILE = Size(256, 256)  # where the file names none


class FillingSource:
    """A source whose unreadable tiles are `filled`, each as a whole: (level, box in its pixels).

    So a pixel still depends on its position alone. OpenSlide's handles are of no use after an
    error: the one that all threads read from is replaced, and each suspect tile is tried on one of
    its own.
    """

    def __init__(self, open_source: Callable[[], Source]) -> None:
        self._open = open_source
        self._source = open_source()
        self.about = self._source.about
        self.filled: set[tuple[int, Box]] = set()
        self._readers: Counter[Source] = Counter()
        self._lock, self._mending = Lock(), Lock()

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level, background where they cannot be read."""
        try:
            with self._borrowed() as source:
                return source.read(level, box)
        except SlidesrError:
            with self._mending:
                return self._read_by_tiles(level, box)

    def close(self) -> None:
        self._source.close()

    @contextmanager
    def _borrowed(self) -> Iterator[Source]:
        """The common handle; after an error it is replaced, and closed when all have left it."""
        with self._lock:
            source = self._source
            self._readers[source] += 1
        try:
            yield source
        except SlidesrError:
            with self._lock:
                if self._source is source:
                    self._source = self._opened_anew()
            raise
        finally:
            with self._lock:
                self._readers[source] -= 1
                if not self._readers[source]:
                    del self._readers[source]
                    if self._source is not source:
                        source.close()

    def _read_by_tiles(self, level: int, box: Box) -> Pixels:
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        for tile in self._tiles(level, box):
            shared = tile.clipped(box)
            part = self._tile(level, tile)
            to = pixels[shared.within(box).slices]
            to[:] = self.about.background if part is None else part[shared.within(tile).slices]
        return pixels

    def _tiles(self, level: int, box: Box) -> Iterator[Box]:
        """The file's own tiles that a box meets, cut off at the level's border."""
        about = self.about.levels[level]
        side = about.tile or _TILE
        for y in range(box.y // side.height * side.height, box.bottom, side.height):
            for x in range(box.x // side.width * side.width, box.right, side.width):
                yield Box(x, y, side.width, side.height).clipped(about.size.box)

    def _tile(self, level: int, tile: Box) -> Pixels | None:
        if (level, tile) in self.filled:
            return None
        source = self._opened_anew()
        try:
            return source.read(level, tile)
        except SlidesrError as error:
            _log.warning("%s Filled with background.", error)
            self.filled.add((level, tile))
            return None
        finally:
            source.close()

    def _opened_anew(self) -> Source:
        try:
            return self._open()
        except RefusedError as error:  # it was a slide a moment ago: the file is gone, or its disk
            raise SlidesrError(str(error)) from error
