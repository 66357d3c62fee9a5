"""A slide as OpenSlide sees it: ASAP, CLAM, TRIDENT, TIAToolbox and many more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from PIL import Image
from PIL.ImageCms import PyCMSError

from slidesr.errors import reason
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.readers.reader import Facts, UnreadableError

_MAX_WHOLE_PX = 1 << 24


class OpenSlideReader:
    """Reads exact pixels where OpenSlide can.

    Positions are whole level-0 pixels, so a level with a fractional downsample is interpolated,
    except in reads that start at its top left corner.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"OpenSlide {openslide.__library_version__}"
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise UnreadableError(reason(error)) from error
        properties = self._slide.properties
        x, y, power = (
            _number(properties.get(f"openslide.{name}"))
            for name in ("mpp-x", "mpp-y", "objective-power")
        )
        sizes = tuple(Size(*each) for each in self._slide.level_dimensions)
        mpp = Mpp(x, y) if x and y else None
        # After one failed read OpenSlide does not even tell the levels.
        self._downsamples = self._slide.level_downsamples
        self.facts = Facts(sizes, mpp, power, self._profile())

    def read(self, level: int, box: Box) -> Pixels:
        downsample = self._downsamples[level]
        at = (round(box.x * downsample), round(box.y * downsample))
        size, inside = (box.width, box.height), Box(0, 0, box.width, box.height)
        if not downsample.is_integer() and not self.interpolates(level):
            at, size, inside = (0, 0), (box.right, box.bottom), box
        try:
            region = self._slide.read_region(at, level, size)
        except openslide.OpenSlideError as error:
            raise UnreadableError(reason(error)) from error
        canvas = Image.new("RGB", region.size, "white")
        canvas.paste(region, mask=region.getchannel("A"))
        return np.asarray(canvas)[inside.slices]

    def interpolates(self, level: int) -> bool:
        whole = self._downsamples[level].is_integer()
        return not whole and self.facts.levels[level].area > _MAX_WHOLE_PX

    def close(self) -> None:
        self._slide.close()

    def _profile(self) -> bytes | None:
        """The profile; no bytes where OpenSlide itself finds it broken."""
        try:
            profile = self._slide.color_profile
        except (PyCMSError, OSError):
            return b""
        return profile.tobytes() if profile else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
