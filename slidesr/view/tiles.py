"""The DeepZoom tiles of a slide: each level is half of the next, down to one pixel."""

from __future__ import annotations

import io
import math
from functools import cached_property

import numpy as np
from PIL import Image

from slidesr.geometry import Box, Size
from slidesr.slide import Slide

TILE_PX = 512
_QUALITY = 90
_THUMBNAIL_PX = 2048
_COARSER = 1.01  # a level up to this much coarser is still used


class Tiles:
    """The tiles of one slide, from its coarsest level that is fine enough. Thread-safe.

    Level `last` is the slide's level 0. A tile takes about four times the memory of its pixels, and
    more if the slide has few levels; levels of at most 2048 px are cut from a cached thumbnail.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.last = math.ceil(math.log2(max(slide.size.width, slide.size.height)))

    def size(self, level: int) -> Size:
        """The whole slide at a level, in pixels."""
        shrink, size = 1 << (self.last - level), self._slide.size
        return Size(-(-size.width // shrink), -(-size.height // shrink))

    def jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """A tile as JPEG, or None outside the pyramid."""
        if not 0 <= level <= self.last or column < 0 or row < 0:
            return None
        box = Box(column * TILE_PX, row * TILE_PX, TILE_PX, TILE_PX).clipped(self.size(level).box)
        if not box.area:
            return None
        stored = io.BytesIO()
        self._image(level, box).save(stored, "jpeg", quality=_QUALITY)
        return stored.getvalue()

    def pixel(self, x: int, y: int) -> tuple[int, int, int] | None:
        """The colour of a pixel of level 0, or None outside the slide."""
        box = Box(x, y, 1, 1)
        if not self._slide.size.box.contains(box):
            return None
        red, green, blue = self._slide.frame().read(box)[0, 0].tolist()
        return red, green, blue

    def _image(self, level: int, box: Box) -> Image.Image:
        downsample = float(1 << (self.last - level))
        size = self.size(level)
        if max(size.width, size.height) <= _THUMBNAIL_PX:
            return _resized(self._thumbnail, Box(0, 0, *self._thumbnail.size), size, box)
        from_level = max(
            index
            for index, each in enumerate(self._slide.levels)
            if each.downsample <= downsample * _COARSER
        )
        frame = self._slide.frame(level=from_level)
        ratio = downsample / frame.downsample
        if abs(ratio - 1) < 1e-9:
            return Image.fromarray(frame.read(box))
        seen = Box(
            math.floor(box.x * ratio),
            math.floor(box.y * ratio),
            math.ceil(box.width * ratio) + 1,
            math.ceil(box.height * ratio) + 1,
        ).clipped(frame.size.box)
        exact = (box.x * ratio - seen.x, box.y * ratio - seen.y)
        right = min(exact[0] + box.width * ratio, seen.width)
        bottom = min(exact[1] + box.height * ratio, seen.height)
        return Image.fromarray(frame.read(seen)).resize(
            (box.width, box.height), Image.Resampling.BOX, box=(*exact, right, bottom)
        )

    @cached_property
    def _thumbnail(self) -> Image.Image:
        return Image.fromarray(np.asarray(self._slide.thumbnail(_THUMBNAIL_PX)))


def _resized(image: Image.Image, whole: Box, size: Size, box: Box) -> Image.Image:
    """The part `box` of the image at `size`."""
    x, y = whole.width / size.width, whole.height / size.height
    part = (
        box.x * x,
        box.y * y,
        min(whole.width, box.right * x),
        min(whole.height, box.bottom * y),
    )
    return image.resize((box.width, box.height), Image.Resampling.BOX, box=part)
