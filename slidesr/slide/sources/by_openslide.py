"""Slides that OpenSlide reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from openslide import OpenSlide, OpenSlideError
from PIL.ImageCms import PyCMSError

from slidesr.geometry import Box, Pixels, Size
from slidesr.slide._checks import check_sane
from slidesr.slide._frame import CELL_PX, CellGrid
from slidesr.slide._metadata import (
    Resolution,
    mpp_from_um,
    number,
    provenance_from_description,
)
from slidesr.slide.sources.source import (
    RGB,
    WHITE,
    About,
    Choice,
    Level,
    over_background,
    unreadable,
    unreadable_box,
)

_ASSOCIATED = re.compile(r"openslide\.associated\.(.+)\.width$")


class OpenSlideSource:
    """One OpenSlide handle; it never reads the label or macro image.

    `tiff` is what our own reader found in a TIFF that OpenSlide calls generic: its resolution and
    choice hold. OpenSlide's errors are sticky: after a failed read all others fail, so reopen the
    slide.
    """

    def __init__(self, path: Path, tiff: About | None = None) -> None:
        self._path = path
        try:
            self._slide = OpenSlide(path)
        except OpenSlideError as error:
            raise unreadable(path, str(error).removeprefix(f"Reading {path}: ")) from error
        with ExitStack() as undo:
            undo.callback(self.close)
            self.about = _about(path, self._slide, tiff)
            undo.pop_all()
        self._grids = {
            i: CellGrid(level.size, partial(self._read_near, i), cell_px=CELL_PX)
            for i, level in enumerate(self.about.levels)
            if not level.downsample.is_integer()
        }

    @staticmethod
    def vendor(path: Path) -> str | None:
        """The format's name, or None where OpenSlide does not know it."""
        return OpenSlide.detect_format(path)

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level.

        OpenSlide takes positions in whole level-0 pixels. Most pixels of a level whose downsample
        is not an integer (4.0003, for example) have no such position, and OpenSlide shifts the
        image by up to half a level-0 pixel, depending on the box. Such levels are read in fixed
        cells.
        """
        grid = self._grids.get(level)
        return grid.read(box) if grid else self._read_near(level, box)

    def close(self) -> None:
        self._slide.close()

    def _read_near(self, level: int, box: Box) -> Pixels:
        downsample = self.about.levels[level].downsample
        x0, y0 = round(box.x * downsample), round(box.y * downsample)
        try:
            region = self._slide.read_region((x0, y0), level, (box.width, box.height))
        except OpenSlideError as error:
            raise unreadable_box(self._path, level, box, error) from error
        return over_background(region, self.about.background)


def _about(path: Path, slide: OpenSlide, tiff: About | None) -> About:
    try:
        properties = dict(slide.properties)
        sizes = [Size(*dimensions) for dimensions in slide.level_dimensions]
        tiles = _tiles(properties, len(sizes))
    except (OpenSlideError, ValueError) as error:
        raise unreadable(path, error) from error
    check_sane(path, sizes, [tile for tile in tiles if tile])
    resolution = _resolution(path, properties, tiff)
    return About(
        vendor=properties["openslide.vendor"],
        levels=tuple(map(Level, sizes, slide.level_downsamples, tiles)),
        mpp=resolution.mpp,
        magnification=resolution.magnification,
        icc_profile=_icc_profile(slide),
        background=_background(properties.get("openslide.background-color")),
        bounds=_bounds(properties),
        properties=properties,
        provenance=provenance_from_description(_description(properties)),
        choice=tiff.choice if tiff else _choice(properties),
    )


def _choice(properties: Mapping[str, str]) -> Choice:
    return Choice(why="the slide that OpenSlide finds", left_out=_left_out(properties))


def _left_out(properties: Mapping[str, str]) -> tuple[str, ...]:
    """The label, overview and other associated images, by their sizes alone.

    >>> _left_out({f"openslide.associated.label.{side}": "90" for side in ("width", "height")})
    ('label (90 x 90)',)
    """
    found = [match[1] for match in map(_ASSOCIATED.match, properties) if match]
    return tuple(f"{name} ({_associated_size(properties, name)})" for name in found)


def _associated_size(properties: Mapping[str, str], name: str) -> str:
    sides = (properties.get(f"openslide.associated.{name}.{side}") for side in ("width", "height"))
    return " x ".join(side or "?" for side in sides)


def _description(properties: Mapping[str, str]) -> str:
    """The description that may hold slidesr's provenance, of a TIFF or a DICOM file."""
    tiff = properties.get("tiff.ImageDescription")
    return tiff or properties.get("dicom.DerivationDescription", "")


def _tiles(properties: Mapping[str, str], levels: int) -> list[Size | None]:
    names = [f"openslide.level[{level}].tile" for level in range(levels)]
    return [
        Size(int(properties[f"{name}-width"]), int(properties[f"{name}-height"]))
        if f"{name}-width" in properties
        else None
        for name in names
    ]


def _resolution(path: Path, properties: Mapping[str, str], tiff: About | None) -> Resolution:
    magnification = number(properties.get("openslide.objective-power"))
    if tiff:
        return Resolution(tiff.mpp, tiff.magnification or magnification)
    x_um, y_um = (number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    return Resolution(mpp_from_um(path, x_um, y_um), magnification)


def _icc_profile(slide: OpenSlide) -> bytes | None:
    """The profile; no bytes where OpenSlide finds it broken, of which `under_profile` warns."""
    try:
        profile = slide.color_profile
    except (PyCMSError, OSError):
        return b""
    return profile.tobytes() if profile else None


def _background(colour: str | None) -> RGB:
    """A colour from six hexadecimal digits; white if there are none.

    >>> _background("FFFAF0"), _background(None)
    ((255, 250, 240), (255, 255, 255))
    """
    try:
        red, green, blue = bytes.fromhex(colour or "")
    except ValueError:
        return WHITE
    return red, green, blue


def _bounds(properties: Mapping[str, str]) -> Box | None:
    try:
        x, y, width, height = (
            int(properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height")
        )
        return Box(x, y, width, height)
    except (KeyError, ValueError):
        return None
