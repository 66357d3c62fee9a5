"""Fills unreadable tiles of a slide with its background, so that a run can continue."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Pixels, Size
from slidesr.slide.sources.source import AboveWindowError, Source

_log = logging.getLogger(__name__)
_DEFAULT_TILE = Size(256, 256)  # where the file states none


class FillingSource:
    """A source whose unreadable tiles are background; `filled` lists them as (level, box in it).

    Whole tiles are filled, so a pixel still depends on its position alone. An OpenSlide handle is
    unusable after an error: the shared one is replaced, and each suspect tile is read with a handle
    of its own.
    """

    def __init__(self, open_source: Callable[[], Source]) -> None:
        self._open = open_source
        self._source = open_source()
        self.about = self._source.about
        self.filled: set[tuple[int, Box]] = set()
        self._readers: Counter[Source] = Counter()
        self._lock, self._repair = Lock(), Lock()

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level, background where they cannot be read."""
        try:
            with self._borrowed() as source:
                return source.read(level, box)
        except AboveWindowError:
            raise
        except SlidesrError:
            with self._repair:
                return self._read_by_tiles(level, box)

    def close(self) -> None:
        self._source.close()

    @contextmanager
    def _borrowed(self) -> Iterator[Source]:
        """The shared handle; after an error it is replaced, and closed by its last reader."""
        with self._lock:
            source = self._source
            self._readers[source] += 1
        try:
            yield source
        except SlidesrError:
            with self._lock:
                if self._source is source:
                    self._source = self._reopened()
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
        """The stored tiles that a box touches, clipped to the level."""
        about = self.about.levels[level]
        side = about.tile or _DEFAULT_TILE
        for y in range(box.y // side.height * side.height, box.bottom, side.height):
            for x in range(box.x // side.width * side.width, box.right, side.width):
                yield Box(x, y, side.width, side.height).clipped(about.size.box)

    def _tile(self, level: int, tile: Box) -> Pixels | None:
        if (level, tile) in self.filled:
            return None
        source = self._reopened()
        try:
            return source.read(level, tile)
        except AboveWindowError:
            raise
        except SlidesrError as error:
            _log.warning("%s Filled with background.", error)
            self.filled.add((level, tile))
            return None
        finally:
            source.close()

    def _reopened(self) -> Source:
        try:
            return self._open()
        except RefusedError as error:  # it opened before: the file or its disk is gone
            raise SlidesrError(str(error)) from error
