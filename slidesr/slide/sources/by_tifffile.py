"""TIFF pyramids that OpenSlide does not read whole: OME-TIFF with SubIFDs, newer compressions."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image
from tifffile import TIFF, TiffFile, TiffPage, TiffPageSeries

from slidesr.errors import RefusedError, SlidesrError, printable
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.slide._checks import MAX_TILE_BYTES, check_sane
from slidesr.slide._metadata import (
    Resolution,
    mpp_from_tiff_tags,
    provenance_from_description,
    resolution_from_ome,
)
from slidesr.slide.sources.source import (
    WHITE,
    About,
    levels_from_sizes,
    over_background,
    unreadable,
)

_ICC_PROFILE_TAG = 34675
_SPARSE = 255  # the value of tiles that are not stored
# Codecs that take the size from the tile's own bytes, by their number in the TIFF. Pillow reads
# that size without decoding; imagecodecs decodes gigabytes before it finds that they do not fit.
_SELF_SIZED_CODECS = {
    **dict.fromkeys((6, 7, 33007, 34892), "JPEG"),
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG2000"),
}


@dataclass(frozen=True)
class TiffLayout:
    """How the first image of a TIFF is stored."""

    is_ome: bool
    is_tiled: bool
    levels: int


def tiff_layout(path: Path) -> TiffLayout | None:
    """The layout of a TIFF; None for other files and for a TIFF that tifffile cannot parse."""
    # On a broken file tifffile raises a dozen exception classes, among them TypeError, IndexError
    # and ZeroDivisionError.
    try:
        with _opened(path) as tiff:
            series = tiff.series[0]
            return TiffLayout(bool(tiff.is_ome), _page(series).is_tiled, len(series.levels))
    except MemoryError:
        raise
    except Exception:
        return None


class TiffSource:
    """The first series of a TIFF, decoded tile by tile or strip by strip."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tiff = _opened(path)
        except MemoryError:
            raise
        except Exception as error:  # a dozen classes, see `tiff_layout`
            raise unreadable(path, error) from error
        try:
            levels = self._tiff.series[0].levels
            self.about = _about(path, self._tiff, levels)
            self._levels = [TiffTiles(_page(level)) for level in levels]
        except (RefusedError, MemoryError):
            self.close()
            raise
        except Exception as error:
            self.close()
            raise unreadable(path, error) from error

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level."""
        try:
            samples = self._levels[level].read(box)
        except MemoryError:
            raise
        except Exception as error:
            raise SlidesrError(
                f"{self._path}: level {level} cannot be read at x {box.x}, y {box.y} "
                f"of that level: {printable(str(error))}"
            ) from error
        if samples.shape[2] == 3:
            return samples
        return over_background(
            Image.fromarray(samples.squeeze(axis=2) if samples.shape[2] == 1 else samples), WHITE
        )

    def close(self) -> None:
        self._tiff.close()


class TiffTiles:
    """Reads boxes of a directory with interleaved u8 samples. Thread-safe."""

    def __init__(self, page: TiffPage) -> None:
        self._page, self._file = page, page.parent.filehandle
        self._size = Size(page.imagewidth, page.imagelength)
        self._tile = Size(page.chunks[1], page.chunks[0])
        self._columns = -(-self._size.width // self._tile.width)
        rows = -(-self._size.height // self._tile.height)
        if len(page.dataoffsets) < self._columns * rows:
            raise ValueError(f"{len(page.dataoffsets)} of {self._columns * rows} tiles are stored")
        self._decode = page.decode  # tifffile creates it lazily, not thread-safe
        self._lock = Lock()

    def read(self, box: Box) -> Pixels:
        """u8[h, w, samples] of a box inside the image; sparse tiles are 255."""
        pixels = np.full((box.height, box.width, self._page.samplesperpixel), _SPARSE, np.uint8)
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
        """A tile, u8[h, w, samples]; None if sparse. A strip at the bottom may have fewer rows."""
        data, page = self._stored(index), self._page
        if not data:
            return None
        stored = tile if page.is_tiled else tile.clipped(self._size.box)
        shape = (stored.height, stored.width, page.samplesperpixel)
        codec = _SELF_SIZED_CODECS.get(page.compression)
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
            raise ValueError(f"{len(data)} of {count} bytes of a tile are stored")
        return data


def _opened(path: Path) -> TiffFile:
    # The XML of an OME-TIFF can name other files, anywhere on the disk: never open them.
    return TiffFile(path, _multifile=False)


def _page(level: TiffPageSeries) -> TiffPage:
    return level.keyframe


def _about(path: Path, tiff: TiffFile, levels: list[TiffPageSeries]) -> About:
    for level in levels:
        _check_rgb(path, level)
        _check_whole(path, tiff, _page(level))
    sizes = [Size(level.shape[1], level.shape[0]) for level in levels]
    tiles = [Size(page.chunks[1], page.chunks[0]) for page in map(_page, levels)]
    check_sane(path, sizes, tiles)
    ome = resolution_from_ome(path, tiff.ome_metadata) if tiff.ome_metadata else Resolution()
    profile = _page(levels[0]).tags.get(_ICC_PROFILE_TAG)
    return About(
        vendor="ome-tiff" if tiff.is_ome else "tiff",
        levels=levels_from_sizes(sizes, tiles),
        mpp=ome.mpp or _mpp_from_tags(path, _page(levels[0])),
        magnification=ome.magnification,
        icc_profile=bytes(profile.value) if profile else None,
        properties=_properties(_page(levels[0])),
        provenance=provenance_from_description(_page(levels[0]).description),
    )


def _properties(page: TiffPage) -> dict[str, str]:
    """The string tags of a directory, under the names that OpenSlide uses."""
    return {f"tiff.{tag.name}": tag.value for tag in page.tags if isinstance(tag.value, str)}


def _check_rgb(path: Path, level: TiffPageSeries) -> None:
    if level.dtype != np.uint8:
        raise unreadable(path, f"its samples are {level.dtype}, not 8-bit")
    if len(level.pages) != 1:
        raise unreadable(path, f"a level has {len(level.pages)} pages, not one")
    if level.axes != "YX" and not (level.axes == "YXS" and level.shape[2] in (3, 4)):
        raise unreadable(path, f"its axes are {level.axes} {level.shape}, not rows, columns, RGB")


def _check_whole(path: Path, tiff: TiffFile, page: TiffPage) -> None:
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
    if max(page.databytecounts) > MAX_TILE_BYTES:
        raise unreadable(path, f"a stored tile takes over {MAX_TILE_BYTES >> 20} MiB")
    if end > tiff.filehandle.size:
        raise unreadable(path, f"it is cut off: {tiff.filehandle.size} bytes of at least {end}")


def _mpp_from_tags(path: Path, page: TiffPage) -> Mpp | None:
    if "XResolution" not in page.tags:  # tifffile would return 1 pixel per inch
        return None
    x, y = page.resolution
    return mpp_from_tiff_tags(path, x, y, int(page.resolutionunit))


def _check_size(data: bytes, codec: str, stored: Box) -> None:
    """Refuses a tile of over four times its area; up to that codecs pad their last blocks."""
    with Image.open(BytesIO(data), formats=(codec,)) as image:
        size = Size(*image.size)
    if size.area > 4 * stored.area:
        raise ValueError(f"a tile of {stored.width} x {stored.height} px declares {size} px")
