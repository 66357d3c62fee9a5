"""TIFF pyramids that OpenSlide does not read whole: OME-TIFF with SubIFDs, newer compressions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import zarr
from PIL import Image
from tifffile import TiffFile, TiffPage, TiffPageSeries

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Mpp, Size
from slidesr.slide._provenance import provenance_from_description
from slidesr.slide._resolution import Resolution, mpp_from_tiff_tags, resolution_from_ome
from slidesr.slide._source import (
    WHITE,
    About,
    Pixels,
    check_sane,
    levels_from_sizes,
    over_background,
    printable,
    unreadable,
)

_ICC_PROFILE_TAG = 34675


@dataclass(frozen=True)
class TiffLayout:
    """How the first image of a TIFF lies in its file."""

    is_ome: bool
    is_tiled: bool
    levels: int


def tiff_layout(path: Path) -> TiffLayout | None:
    """The layout of a TIFF; None for other files and for a TIFF that tifffile cannot follow."""
    # tifffile meets a broken file with a dozen exception classes, TypeError, IndexError and
    # ZeroDivisionError among them.
    try:
        with _opened(path) as tiff:
            series = tiff.series[0]
            return TiffLayout(bool(tiff.is_ome), _page(series).is_tiled, len(series.levels))
    except Exception:
        return None


class TiffSource:
    """The first series of a TIFF, decoded chunk by chunk, one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        try:
            self._tiff = _opened(path)
        except Exception as error:  # a dozen classes, see `tiff_layout`
            raise unreadable(path, error) from error
        try:
            series = self._tiff.series[0]
            self.about = _about(path, self._tiff, series.levels)
            self._arrays = [
                zarr.open_array(series.aszarr(level=level), mode="r")
                for level in range(len(series.levels))
            ]
        except RefusedError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise unreadable(path, error) from error

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level."""
        try:
            with self._lock:
                samples = np.asarray(self._arrays[level][box.slices], np.uint8)
        except Exception as error:
            raise SlidesrError(
                f"{self._path}: level {level} cannot be read at x {box.x}, y {box.y} "
                f"of that level: {printable(str(error))}"
            ) from error
        if samples.ndim == 3 and samples.shape[2] == 3:
            return samples
        return over_background(Image.fromarray(samples), WHITE)

    def close(self) -> None:
        self._tiff.close()


def _opened(path: Path) -> TiffFile:
    # The XML of an OME-TIFF can name other files, anywhere on the disk: they stay closed.
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
    """The words in a directory, under the names that OpenSlide gives them."""
    return {f"tiff.{tag.name}": tag.value for tag in page.tags if isinstance(tag.value, str)}


def _check_rgb(path: Path, level: TiffPageSeries) -> None:
    if level.dtype != np.uint8:
        raise unreadable(path, f"its samples are {level.dtype}, not 8-bit")
    if level.axes != "YX" and not (level.axes == "YXS" and level.shape[2] in (3, 4)):
        raise unreadable(path, f"its axes are {level.axes} {level.shape}, not rows, columns, RGB")


def _check_whole(path: Path, tiff: TiffFile, page: TiffPage) -> None:
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
    if end > tiff.filehandle.size:
        raise unreadable(path, f"it is cut off: {tiff.filehandle.size} bytes of at least {end}")


def _mpp_from_tags(path: Path, page: TiffPage) -> Mpp | None:
    if "XResolution" not in page.tags:  # tifffile would say 1 pixel per inch
        return None
    x, y = page.resolution
    return mpp_from_tiff_tags(path, x, y, int(page.resolutionunit))
