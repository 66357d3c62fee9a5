"""A slide as tifffile sees it: napari and most of scientific Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tifffile
import zarr

from slidesr.errors import reason
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.readers.reader import Facts, UnreadableError

_LOSSLESS = {"NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "ZSTD", "LZMA"}
_COLOUR_SPACES = {0: "GRAY", 1: "GRAY", 5: "CMYK", 8: "Lab", 9: "Lab"}  # of a photometric
_RGB_OR_YCBCR = (2, 6)  # of PhotometricInterpretation
_UM = {2: 25_400.0, 3: 10_000.0}  # of a resolution unit: inch, centimetre


class TifffileReader:
    """The largest series of a TIFF, with the levels that tifffile finds."""

    def __init__(self, path: Path) -> None:
        self.name = f"tifffile {tifffile.__version__}"
        try:
            with ExitStack() as undo:
                self._tiff = undo.enter_context(tifffile.TiffFile(path, _multifile=False))
                series = max(self._tiff.series, key=_area)
                if series.axes not in ("YX", "YXS", "SYX"):
                    raise UnreadableError(f"its axes are {series.axes}, not rows, columns, samples")
                self._levels = series.levels
                self._arrays = [
                    zarr.open_array(series.aszarr(level=level), mode="r")
                    for level in range(len(self._levels))
                ]
                undo.pop_all()
        except UnreadableError:
            raise
        except Exception as error:  # a dozen classes on a broken file
            raise UnreadableError(reason(error)) from error
        sizes = tuple(
            Size(level.keyframe.imagewidth, level.keyframe.imagelength) for level in self._levels
        )
        space = _COLOUR_SPACES.get(int(self.pages[0].photometric), "RGB")
        self.facts = Facts(sizes, self._mpp(), None, self._profile(), space)

    def read(self, level: int, box: Box) -> Pixels:
        try:
            if self._levels[level].axes == "SYX":
                pixels = np.asarray(self._arrays[level][(slice(None), *box.slices)])
                pixels = pixels.transpose(1, 2, 0)
            else:
                pixels = np.asarray(self._arrays[level][box.slices])
        except Exception as error:  # as above
            raise UnreadableError(reason(error)) from error
        is_rgb = int(self.pages[level].photometric) in _RGB_OR_YCBCR
        if not is_rgb or pixels.ndim != 3 or pixels.shape[2] < 3 or pixels.dtype != np.uint8:
            raise UnreadableError(f"its pixels are {pixels.dtype}{list(pixels.shape)}, not RGB")
        return pixels[..., :3]

    def interpolates(self, level: int) -> bool:
        return False

    def close(self) -> None:
        self._tiff.close()

    @property
    def pages(self) -> list[tifffile.TiffPage]:
        """The full directory of each level."""
        return [level.keyframe for level in self._levels]

    @property
    def is_lossless(self) -> bool:
        return all(_name(page) in _LOSSLESS for page in self.pages)

    @property
    def layout(self) -> str:
        """How levels are linked: `hybrid` has them in the main chain and as SubIFDs."""
        if not self._tiff.is_ome:
            return "generic"
        below = self._tiff.pages.first.subifds or ()
        return "hybrid" if below and len(self._tiff.pages) == 1 + len(below) else "ome"

    @property
    def description(self) -> str:
        return str(self._tiff.pages.first.description)

    @property
    def is_ome(self) -> bool:
        return bool(self._tiff.is_ome)

    def tiles(self, level: int) -> Iterator[tuple[int, int, int]]:
        """Each tile of a level: index, offset in the file, length in bytes."""
        page = self.pages[level]
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        for index, (offset, count) in enumerate(places):
            yield index, int(offset), int(count)

    def decode(self, level: int, index: int, offset: int, count: int) -> None:
        """Decodes a stored tile. Raises UnreadableError."""
        page, file = self.pages[level], self._tiff.filehandle
        file.seek(offset)
        data = file.read(count)
        try:
            if len(data) != count:
                raise ValueError(f"the file ends {count - len(data)} bytes early")
            if _name(page) == "JPEG" and not data.endswith(b"\xff\xd9"):
                raise ValueError("its JPEG is truncated")  # libjpeg fills the rest with grey
            tile, *_ = page.decode(data, index, jpegtables=page.jpegtables, _fullsize=True)
        except Exception as error:  # each codec has its own
            raise UnreadableError(reason(error)) from error
        if tile is None:
            raise UnreadableError("it is empty")

    def _profile(self) -> bytes | None:
        """The profile; no bytes where its tag holds something else."""
        tag = self.pages[0].tags.get("InterColorProfile")
        if tag is None:
            return None
        return tag.value if isinstance(tag.value, bytes) else b""

    def _mpp(self) -> Mpp | None:
        page = self.pages[0]
        if "XResolution" not in page.tags or int(page.resolutionunit) not in _UM:
            return None
        um, (x, y) = _UM[int(page.resolutionunit)], page.resolution
        return Mpp(um / x, um / y) if x > 0 and y > 0 else None


def _area(series: tifffile.TiffPageSeries) -> int:
    return int(series.keyframe.imagewidth * series.keyframe.imagelength)


def _name(page: tifffile.TiffPage) -> str:
    """The name of the compression, or its number if tifffile has none."""
    return getattr(page.compression, "name", str(page.compression))
