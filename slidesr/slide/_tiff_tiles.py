"""The stored tiles or strips of one directory of a TIFF; none may decode to more than its size."""

from __future__ import annotations

from io import BytesIO
from threading import Lock

import numpy as np
from PIL import Image
from tifffile import TIFF, TiffPage

from slidesr.geometry import Box, Size
from slidesr.slide._source import Pixels

# Codecs that take the size from the tile's own bytes, by their number in the TIFF. Pillow tells
# it without decoding; imagecodecs decodes whole gigabytes before it finds that they do not fit.
_MEASURED = {
    **dict.fromkeys((6, 7, 33007, 34892), "JPEG"),
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG2000"),
}
_HOLE = 255  # a tile that is not stored: background


class TiffTiles:
    """Reads boxes of a directory whose samples are u8, interleaved. Thread-safe."""

    def __init__(self, page: TiffPage) -> None:
        self._page, self._file = page, page.parent.filehandle
        self._size = Size(page.imagewidth, page.imagelength)
        self._tile = Size(page.chunks[1], page.chunks[0])
        self._columns = -(-self._size.width // self._tile.width)
        rows = -(-self._size.height // self._tile.height)
        if len(page.dataoffsets) < self._columns * rows:
            raise ValueError(f"{len(page.dataoffsets)} of {self._columns * rows} tiles are there")
        self._decode = page.decode  # made here, as tifffile makes it for one thread alone
        self._lock = Lock()

    def read(self, box: Box) -> Pixels:
        """u8[h, w, samples] of a box inside the image; holes are 255."""
        pixels = np.full((box.height, box.width, self._page.samplesperpixel), _HOLE, np.uint8)
        across, down = self._tile.width, self._tile.height
        for row in range(box.y // down, -(-box.bottom // down)):
            for column in range(box.x // across, -(-box.right // across)):
                tile = Box(column * across, row * down, across, down)
                shared = tile.clipped(self._size.box).clipped(box)
                decoded = self._decoded(row * self._columns + column, tile)
                if decoded is not None:
                    pixels[shared.within(box).slices] = decoded[shared.within(tile).slices]
        return pixels

    def _decoded(self, index: int, tile: Box) -> Pixels | None:
        """A tile, u8[h, w, samples], of a strip at the lower border less; None for a hole."""
        data, page = self._stored(index), self._page
        if not data:
            return None
        stored = tile if page.is_tiled else tile.clipped(self._size.box)
        shape = (stored.height, stored.width, page.samplesperpixel)
        codec = _MEASURED.get(page.compression)
        if codec:
            _check_size(data, codec, stored)
        elif page.compression in TIFF.IMAGE_COMPRESSIONS:
            out = np.empty(shape if shape[2] > 1 else shape[:2], np.uint8)
            pixels: Pixels = TIFF.DECOMPRESSORS[page.compression](data, out=out)
            return pixels.reshape(shape)
        decoded = self._decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        return np.asarray(decoded[0], np.uint8).reshape(shape)

    def _stored(self, index: int) -> bytes:
        offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
        with self._lock:
            self._file.seek(offset)
            data: bytes = self._file.read(count) if offset else b""
        if offset and len(data) < count:
            raise ValueError(f"{len(data)} of {count} bytes of a tile are there")
        return data


def _check_size(data: bytes, codec: str, stored: Box) -> None:
    """Four times is allowed for: codecs fill up their last blocks."""
    with Image.open(BytesIO(data), formats=(codec,)) as image:
        size = Size(*image.size)
    if size.area > 4 * stored.area:
        raise ValueError(f"a tile of {stored.width} x {stored.height} px says that it is {size} px")
