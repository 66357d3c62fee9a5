"""Reads boxes of a stored level, tile by tile or strip by strip, through a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from io import BytesIO
from threading import Condition
from typing import Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from PIL import Image
from tifffile import TIFF, TiffPage

from slidesr.geometry import Box, Pixels, Size
from slidesr.slide.sources.tiff.directory import JPEG_CODECS, WEBP_CODECS, Directory

_CACHE_BYTES = 1 << 27
_SPARSE = 255  # the value of tiles that are not stored
_RGB_BYTES = 3
# Codecs that take the size from the tile's own bytes, by their number in the TIFF. Pillow reads
# that size without decoding; imagecodecs decodes gigabytes before it finds that they do not fit.
_SELF_SIZED_CODECS = {
    **dict.fromkeys(JPEG_CODECS, "JPEG"),
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG2000"),
}

ToRgb = Callable[[NDArray[Any]], Pixels]
"""Converts samples [h, w, s] of a level to u8[h, w, 3]."""


class TileCache:
    """The decoded tiles of a file that were used last: 128 MiB, or one tile if that has more.

    Shared by all levels and threads; a tile that several threads need is decoded once.
    """

    def __init__(self, largest: Size) -> None:
        cache = LRUCache[Any, Pixels](
            max(_CACHE_BYTES, largest.area * _RGB_BYTES), getsizeof=lambda tile: tile.nbytes
        )
        self.get = cached(
            cache, key=lambda level, index, decode: (level, index), condition=Condition()
        )(_decoded)


def _decoded(level: int, index: int, decode: Callable[[int], Pixels]) -> Pixels:
    return decode(index)


class StoredLevel:
    """A level as it is stored, in one directory, or one each for R, G and B. Thread-safe.

    Raises ValueError where fewer tiles are stored than its size needs.
    """

    def __init__(
        self, number: int, directories: Sequence[Directory], to_rgb: ToRgb, cache: TileCache
    ) -> None:
        first = directories[0]
        self._number, self._directories = number, directories
        self._to_rgb, self._cache = to_rgb, cache
        self._size, self._tile = first.size, first.tile
        self._columns = -(-first.size.width // first.tile.width)
        self.tile_count = self._columns * -(-first.size.height // first.tile.height)
        for each in directories:
            stored, needed = len(each.page.dataoffsets), self.tile_count * each.planes
            if stored < needed:
                raise ValueError(f"{stored} of {needed} tiles are stored")
            _ = each.page.decode  # tifffile creates it lazily, not thread-safe

    def read(self, box: Box) -> Pixels:
        """u8[h, w, 3] of a box inside the image; sparse tiles are white."""
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        across, down = self._tile.width, self._tile.height
        for row in range(box.y // down, -(-box.bottom // down)):
            for column in range(box.x // across, -(-box.right // across)):
                tile = Box(column * across, row * down, across, down).clipped(self._size.box)
                shared = tile.clipped(box)
                rgb = self._cache.get(self._number, row * self._columns + column, self._rgb)
                pixels[shared.within(box).slices] = rgb[shared.within(tile).slices]
        return pixels

    def samples(self, index: int) -> NDArray[Any] | None:
        """A tile before its conversion, [h, w, s]; None if sparse."""
        parts = [
            _decoded_plane(each, plane * self.tile_count + index, self._stored_size(index))
            for each in self._directories
            for plane in range(each.planes)
        ]
        found = next((part for part in parts if part is not None), None)
        if found is None:
            return None
        filled = [np.zeros_like(found) if part is None else part for part in parts]
        return np.concatenate(filled, axis=2) if len(filled) > 1 else found

    def largest_sample(self, most_tiles: int) -> int:
        """The largest colour sample of at most about `most_tiles` tiles, evenly spread."""
        step = max(1, self.tile_count // most_tiles)
        tiles = (self.samples(index) for index in range(0, self.tile_count, step))
        colours = self._directories[0].colour.samples
        return max(
            (int(tile[..., :colours].max()) for tile in tiles if tile is not None), default=0
        )

    def _rgb(self, index: int) -> Pixels:
        """A tile as RGB, cut to the part that lies in the image."""
        samples = self.samples(index)
        row, column = divmod(index, self._columns)
        height = min(self._tile.height, self._size.height - row * self._tile.height)
        width = min(self._tile.width, self._size.width - column * self._tile.width)
        if samples is None:
            return np.full((height, width, 3), _SPARSE, np.uint8)
        return self._to_rgb(samples[:height, :width])

    def _stored_size(self, index: int) -> Size:
        """A strip at the bottom may have fewer rows; a tile is always whole."""
        if self._directories[0].is_tiled:
            return self._tile
        rows = min(self._tile.height, self._size.height - index * self._tile.height)
        return Size(self._tile.width, rows)


def _decoded_plane(directory: Directory, index: int, size: Size) -> NDArray[Any] | None:
    """One stored tile, [h, w, samples of a plane]; None if sparse."""
    page, samples = directory.page, directory.samples // directory.planes
    data = _stored(page, index)
    if not data:
        return None
    shape = (size.height, size.width, samples)
    codec = _SELF_SIZED_CODECS.get(page.compression)
    if codec:
        _check_size(data, codec, size)
    elif page.compression in TIFF.IMAGE_COMPRESSIONS:
        out = np.empty(shape if samples > 1 else shape[:2], page.dtype)
        # WebP itself drops alpha where a tile is opaque.
        how = {"hasalpha": samples == 4} if page.compression in WEBP_CODECS else {}
        decoded: NDArray[Any] = TIFF.DECOMPRESSORS[page.compression](data, out=out, **how)
        return decoded.reshape(shape)
    found = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    return np.asarray(found[0]).reshape(shape)


def _stored(page: TiffPage, index: int) -> bytes:
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if not offset:
        return b""
    # `pread` needs no lock: the file's position is not used.
    data = os.pread(page.parent.filehandle.fileno(), count, offset)
    if len(data) < count:
        raise ValueError(f"{len(data)} of {count} bytes of a tile are stored")
    return data


def _check_size(data: bytes, codec: str, stored: Size) -> None:
    """Refuses a tile of over four times its area; up to that codecs pad their last blocks."""
    with Image.open(BytesIO(data), formats=(codec,)) as image:
        size = Size(*image.size)
    if size.area > 4 * stored.area:
        raise ValueError(f"a tile of {stored} px declares {size} px")
