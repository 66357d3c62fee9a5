"""TIFF: the pixels of the image that is the slide, decoded by tifffile and imagecodecs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Pixels, Size
from slidesr.imaging.window import Window, WindowChoice
from slidesr.slide._checks import MAX_TILE_BYTES, check_sane
from slidesr.slide._metadata import provenance_from_description
from slidesr.slide.sources.source import (
    About,
    chosen_window,
    levels_from_sizes,
    refuse_above,
    refuse_window,
    unreadable,
    unreadable_box,
)
from slidesr.slide.sources.tiff.colour import to_rgb
from slidesr.slide.sources.tiff.directory import Alpha, Directory
from slidesr.slide.sources.tiff.images import Chosen, TiffImage, choose_image
from slidesr.slide.sources.tiff.tiles import StoredLevel, TileCache, ToRgb

_MAX_STRIP_BYTES = 1 << 30  # of a whole image in one strip
_ICC_PROFILE_TAG = 34675
_SAMPLED_TILES = 64
_USUAL_TILE_PX = 2048  # OpenSlide's cache holds few larger ones, and decodes them for each read


def refuse_odd_samples(path: Path) -> None:
    """Refuses a scanner's TIFF that OpenSlide would show wrongly.

    Its samples have more or fewer than 8 bits, there are more than its colours need, or it must be
    turned. What tifffile cannot parse is left to OpenSlide, which knows the scanners' own ways.
    """
    try:
        with TiffFile(path, _multifile=False) as tiff:
            found = [Directory.of(page) for page in tiff.pages if isinstance(page, TiffPage)]
            largest = max(found, key=lambda each: each.size.area)
    except MemoryError:
        raise
    except Exception:  # as in `TiffSource`
        return
    if largest.bits != 8:
        raise unreadable(path, f"its samples have {largest.bits} bits, and OpenSlide reads 8")
    if largest.samples > largest.colour.samples:
        raise unreadable(
            path, "it has samples besides its colours, which OpenSlide may take for transparency"
        )
    if not largest.orientation.is_as_stored:
        raise unreadable(
            path, "its orientation tag turns it, which OpenSlide does to each tile alone"
        )


class TiffSource:
    """The image of a TIFF that is the slide: `choose_image` says which.

    `is_plain` where other readers show the same pixels: the first directory, 8-bit RGB in tiles of
    a usual size, nothing to be turned or merged.
    """

    def __init__(self, path: Path, window: WindowChoice = None) -> None:
        self._path = path
        try:
            with ExitStack() as undo:
                # The XML of an OME-TIFF can name other files, anywhere: never open them.
                self._tiff = undo.enter_context(TiffFile(path, _multifile=False))
                chosen = choose_image(path, self._tiff)
                self._open_levels(chosen.image, window)
                self.about = self._about(chosen)
                self._undo = undo.pop_all()
        except (RefusedError, MemoryError):
            raise
        # On a broken file tifffile raises a dozen exception classes, among them TypeError,
        # IndexError and ZeroDivisionError.
        except Exception as error:
            raise unreadable(path, error) from error

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level."""
        try:
            stored = self._levels[level].read(self._orientation.stored_box(box, self._sizes[level]))
        except MemoryError:
            raise
        except Exception as error:  # each codec has its own
            raise unreadable_box(self._path, level, box, error) from error
        return stored if self._orientation.is_as_stored else self._orientation.shown(stored)

    def close(self) -> None:
        self._undo.close()

    def _open_levels(self, image: TiffImage, window: WindowChoice) -> None:
        first = image.levels[0][0]
        self.is_plain = (
            all(len(level) == 1 and level[0].is_plain for level in image.levels)
            and first.is_tiled
            and first.tile.area <= _USUAL_TILE_PX**2
            and first.page.offset == self._tiff.pages.first.offset
            and self._is_in_chain(image)
        )
        for level in image.levels:
            for directory in level:
                _check_whole(self._path, self._tiff, directory.page)
        limit = MAX_TILE_BYTES if first.is_tiled else _MAX_STRIP_BYTES
        stored, tiles = _sizes(image)
        check_sane(self._path, stored, tiles, max_tile_bytes=limit)
        self._orientation = first.orientation
        self._sizes = [first.orientation.size(size) for size in stored]
        cache = TileCache(max(tiles, key=lambda tile: tile.area))
        self._levels = [
            StoredLevel(number, level, self._converter(level[0]), cache)
            for number, level in enumerate(image.levels)
        ]
        self._window = self._chosen_window(first, window)
        self._is_automatic = window == "auto"

    def _is_in_chain(self, image: TiffImage) -> bool:
        """Whether the main chain, which is all that OpenSlide looks at, has the same tiles."""
        tiles: dict[tuple[int, int], Any] = {}
        for page in self._tiff.pages:
            if isinstance(page, TiffPage):
                tiles.setdefault((page.imagewidth, page.imagelength), page.dataoffsets)
        return all(
            tiles.get((level[0].size.width, level[0].size.height)) == level[0].page.dataoffsets
            for level in image.levels
        )

    def _chosen_window(self, first: Directory, choice: WindowChoice) -> Window | None:
        if first.bits <= 8:
            refuse_window(self._path, choice)
            return None
        window = chosen_window(
            self._path, choice, lambda: self._levels[-1].largest_sample(_SAMPLED_TILES)
        )
        if window.low and first.alpha is Alpha.ASSOCIATED:
            raise unreadable(
                self._path, "its colours are multiplied by alpha, so a window must start at 0"
            )
        return window

    def _converter(self, directory: Directory) -> ToRgb:
        colours = directory.colour.samples

        def convert(samples: NDArray[Any]) -> Pixels:
            window = self._window
            if window and self._is_automatic:
                refuse_above(window, samples[..., :colours])
            return to_rgb(directory, samples, window)

        return convert

    def _about(self, chosen: Chosen) -> About:
        image, page = chosen.image, chosen.image.levels[0][0].page
        tiles = [self._orientation.size(level[0].tile) for level in image.levels]
        mpp = image.resolution.mpp
        profile = page.tags.get(_ICC_PROFILE_TAG)
        return About(
            vendor="ome-tiff" if self._tiff.is_ome else "tiff",
            levels=levels_from_sizes(self._sizes, tiles),
            mpp=self._orientation.mpp(mpp) if mpp else None,
            magnification=image.resolution.magnification,
            icc_profile=bytes(profile.value) if profile else None,
            properties=_properties(page),
            provenance=provenance_from_description(page.description),
            choice=chosen.choice,
            window=self._window,
        )


def _sizes(image: TiffImage) -> tuple[list[Size], list[Size]]:
    """The sizes of the levels and of their tiles, as stored."""
    first = [level[0] for level in image.levels]
    return [each.size for each in first], [each.tile for each in first]


def _properties(page: TiffPage) -> dict[str, str]:
    """The string tags of a directory, under the names that OpenSlide uses."""
    return {f"tiff.{tag.name}": tag.value for tag in page.tags if isinstance(tag.value, str)}


def _check_whole(path: Path, tiff: TiffFile, page: TiffPage) -> None:
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
    if max(page.databytecounts) > MAX_TILE_BYTES:
        raise unreadable(path, f"a stored tile takes over {MAX_TILE_BYTES >> 20} MiB")
    if end > tiff.filehandle.size:
        raise unreadable(path, f"it is cut off: {tiff.filehandle.size} bytes of at least {end}")
