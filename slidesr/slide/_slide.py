"""A whole slide: its metadata, thumbnail, tissue and frames."""

from __future__ import annotations

import math
from collections.abc import Set
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Mpp, Pixels
from slidesr.imaging.window import WindowChoice
from slidesr.regions.tissue_detection import find_tissue
from slidesr.regions.tissue_mask import Tissue
from slidesr.runtime.closeable import Closeable
from slidesr.runtime.dicom_folder import slide_file
from slidesr.runtime.paths import check_file, is_store, is_tiff
from slidesr.slide._checks import refuse_names_elsewhere
from slidesr.slide._frame import Frame, level_frame, resampled_frame
from slidesr.slide._stamp import Stamp, stamp_of
from slidesr.slide.sources.by_openslide import OpenSlideSource
from slidesr.slide.sources.by_pillow import ImageSource
from slidesr.slide.sources.by_tifffile import TiffSource, refuse_odd_samples
from slidesr.slide.sources.filling import FillingSource
from slidesr.slide.sources.icc import under_profile
from slidesr.slide.sources.source import Source, refuse_window

_TOLERANCE = 0.01  # resolutions within this are equal
_MAX_RATIO = 1024
_PIECE_PX = 4096
_TISSUE_PX, _LEAST_TISSUE_PX = 2048, 512
_TISSUE_SHRINK = 4  # an eighth of a cell of the plan; finer masks gain nothing
_MPP_TIMES_MAGNIFICATION = 10.0  # the convention: 10x is 1 um a pixel


class Slide(Closeable):
    """An open slide. Reads from several threads; use it as a context manager.

    Sizes and pixel sizes are those of level 0. `background` is the colour under transparent pixels;
    `bounds` is the scanned part, if the file states it. `choice` says which of the file's images is
    read and how; `window` is that of 16-bit samples. `properties` are all properties of the file
    under OpenSlide's names, including private ones; `provenance` is what slidesr wrote into a file
    of its own.
    """

    def __init__(
        self,
        path: Path,
        source: Source,
        mpp: Mpp | None = None,
        filled: Set[tuple[int, Box]] = frozenset(),
    ) -> None:
        about = replace(source.about, mpp=mpp or source.about.mpp)
        self.path = path
        self.vendor = about.vendor
        self.levels = about.levels
        self.size = about.levels[0].size
        self.mpp = about.mpp
        self.magnification = about.magnification
        self.icc_profile = about.icc_profile
        self.background = about.background
        self.bounds = about.bounds
        self.properties, self.provenance = about.properties, about.provenance
        self.choice, self.window = about.choice, about.window
        self._source, self._about, self._filled = source, about, filled

    def close(self) -> None:
        self._source.close()

    @property
    def stamp(self) -> Stamp:
        """Changes whenever the file changes; see `stamp_of`."""
        return stamp_of(self.path)

    @property
    def window_note(self) -> dict[str, str]:
        """The window as a field of an output's provenance; empty for samples of 8 bits."""
        return {"source_window": str(self.window)} if self.window else {}

    @property
    def filled_tiles(self) -> frozenset[tuple[int, Box]]:
        """The unreadable tiles found so far: level, and box in pixels of that level."""
        return frozenset(self._filled)

    def frame(
        self,
        *,
        level: int | None = None,
        mpp: float | None = None,
        magnification: float | None = None,
    ) -> Frame:
        """The slide at a level (default 0), a pixel size in um, or a magnification.

        If no level is within 1% of the resolution, the next finer level is resampled. Raises
        RefusedError where the slide has no such level or resolution.
        """
        if sum(option is not None for option in (level, mpp, magnification)) > 1:
            raise RefusedError("Give only one of level, mpp and magnification.")
        if mpp is not None:
            return self._frame_at(self._downsample_from_mpp(mpp))
        if magnification is not None:
            return self._frame_at(self._downsample_from_magnification(magnification))
        return self._level_frame(level or 0)

    def thumbnail(self, max_px: int) -> Pixels:
        """The whole slide: u8[h, w, 3], its longer side at most `max_px`.

        Computed from the coarsest level that is large enough, in pieces of at most 16 megapixels.
        """
        if max_px < 1:
            raise ValueError(f"thumbnail size {max_px} px is not positive")
        frame = self._level_frame(self._level_for_thumbnail(max_px))
        width, height = frame.size.width, frame.size.height
        shrink = max(1.0, max(width, height) / max_px)
        # Averaging to about twice the size is cheap; resampling from there is exact.
        factor = min(_PIECE_PX, max(1, int(shrink / 2)))
        small = Image.fromarray(_reduced(frame, factor)).resize(
            (max(1, round(width / shrink)), max(1, round(height / shrink))),
            Image.Resampling.BICUBIC,
            box=(0, 0, width / factor, height / factor),
        )
        return np.array(small)

    def find_tissue(self, max_px: int = _TISSUE_PX) -> Tissue:
        """The tissue, found on a thumbnail whose longer side is at most `max_px`."""
        longer = max(self.size.width, self.size.height)
        thumbnail = self.thumbnail(min(max_px, max(_LEAST_TISSUE_PX, longer // _TISSUE_SHRINK)))
        shrink = self.size.width / thumbnail.shape[1]
        return find_tissue(thumbnail, um_per_px=self.mpp.mean * shrink if self.mpp else None)

    def _level_frame(self, level: int) -> Frame:
        count = len(self.levels)
        if not 0 <= level < count:
            has = "only level 0" if count == 1 else f"levels 0 to {count - 1}"
            raise RefusedError(f"{self.path}: no level {level}: the slide has {has}.")
        return level_frame(self._source, self._about, level)

    def _level_for_thumbnail(self, max_px: int) -> int:
        enough = [
            index
            for index, level in enumerate(self.levels)
            if max(level.size.width, level.size.height) >= max_px
        ]
        return enough[-1] if enough else 0

    def _downsample_from_mpp(self, mpp: float) -> float:
        _check_positive("pixel size", mpp)
        if self.mpp is None:
            raise RefusedError(
                f"{self.path}: no pixel size in the file, so --mpp has no meaning. "
                "Give the file's with --source-mpp, or choose a level with --level."
            )
        return mpp / self.mpp.mean

    def _downsample_from_magnification(self, magnification: float) -> float:
        _check_positive("magnification", magnification)
        if self.magnification is not None:
            return self.magnification / magnification
        if self.mpp is not None:
            return _MPP_TIMES_MAGNIFICATION / magnification / self.mpp.mean
        raise RefusedError(
            f"{self.path}: neither a magnification nor a pixel size in the file. "
            "Choose a level with --level, for example --level 0."
        )

    def _frame_at(self, downsample: float) -> Frame:
        if downsample * (1 + _TOLERANCE) < 1:
            raise RefusedError(
                f"{self.path}: {1 / downsample:.3g} times finer than level 0, which has "
                f"{self._resolution}. Ask for that or coarser."
            )
        finer = [level.downsample <= downsample * (1 + _TOLERANCE) for level in self.levels]
        level = max(index for index, is_finer in enumerate(finer) if is_finer)
        ratio = downsample / self.levels[level].downsample
        if ratio > _MAX_RATIO:
            raise RefusedError(
                f"{self.path}: {downsample:.3g} times coarser than level 0, which has "
                f"{self._resolution}; the coarsest level here is {len(self.levels) - 1}."
            )
        if ratio <= 1 + _TOLERANCE:
            return level_frame(self._source, self._about, level)
        return resampled_frame(self._source, self._about, level, downsample)

    @property
    def _resolution(self) -> str:
        """The resolution of level 0, for messages."""
        mpp = f"{self.mpp} um a pixel" if self.mpp else "no pixel size"
        return f"{mpp}, {self.magnification:g}x" if self.magnification else mpp


def open_slide(
    path: Path,
    *,
    mpp: Mpp | None = None,
    icc: str = "keep",
    window: WindowChoice = None,
    fill: bool = False,
) -> Slide:
    """Opens a slide or image with the first of the four readers that supports it.

    `mpp` overrides the pixel size of level 0. `icc` is one of `imaging.icc.ICC_CHOICES` and applies
    to pixels and profile. `window` is for samples of 16 bits, which are refused without one. With
    `fill`, unreadable tiles are background and listed in `Slide.filled_tiles`; without it, reading
    them raises SlidesrError. Raises RefusedError for a file that no reader supports.
    """
    filling = FillingSource(partial(_source, path, window)) if fill else None
    source = filling or _source(path, window)
    with ExitStack() as undo:
        undo.callback(source.close)
        filled = filling.filled if filling else frozenset[tuple[int, Box]]()
        slide = Slide(path, under_profile(path, source, icc), mpp, filled)
        undo.pop_all()
    return slide


def _source(path: Path, window: WindowChoice) -> Source:
    """The one door: every file passes the checks of its kind, whichever library reads it."""
    if is_store(path):
        from slidesr.slide.sources.by_zarr import ZarrSource  # zarr takes 0.2 s to import

        return ZarrSource(path, window)
    path = slide_file(path)
    check_file(path)
    vendor = OpenSlideSource.vendor(path)
    refuse_names_elsewhere(path, vendor)
    if is_tiff(path) and vendor in (None, "generic-tiff"):
        return _tiff_source(path, window, known=vendor is not None)
    if vendor is None:
        return ImageSource(path, window)
    refuse_window(path, window)
    if is_tiff(path):
        refuse_odd_samples(path)
    return OpenSlideSource(path)


def _tiff_source(path: Path, window: WindowChoice, *, known: bool) -> Source:
    """OpenSlide where it is `known` to it and sees the same, else our own reader."""
    own = TiffSource(path, window)
    if not (known and own.is_plain):
        return own
    try:
        other = OpenSlideSource(path, own.about)
    except RefusedError:
        return own  # tifffile supports more compressions, such as JPEG XL
    sizes = [[level.size for level in source.about.levels] for source in (own, other)]
    (other if sizes[0] != sizes[1] else own).close()
    return own if sizes[0] != sizes[1] else other


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise RefusedError(f"A {name} of {value:g} is not positive and finite.")


def _reduced(frame: Frame, factor: int) -> Pixels:
    """The frame averaged down by an integer factor, box by box."""
    height, width = -(-frame.size.height // factor), -(-frame.size.width // factor)
    small = np.empty((height, width, 3), np.uint8)
    for piece in Box(0, 0, width, height).cells(_PIECE_PX // factor):
        source = (piece * factor).clipped(frame.size.box)
        reduced = Image.fromarray(frame.read(source)).reduce(factor)
        small[piece.slices] = np.asarray(reduced)
    return small
