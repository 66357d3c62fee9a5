"""A slide as libvips sees it, by its own TIFF reader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from slidesr.errors import reason
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.readers.reader import Facts, NotInstalledError, UnreadableError

_NO_RESOLUTION = 1.0  # pixels per millimetre: what libvips reports without a resolution


class LibvipsReader:
    """The tiled directories of the main chain, or the SubIFDs of its only directory."""

    def __init__(self, path: Path) -> None:
        try:
            import pyvips
        except (ImportError, OSError) as error:
            raise NotInstalledError("pip install 'pyvips[binary]'") from error
        logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its errors are also raised
        self._error: type[Exception] = pyvips.Error
        numbers = (pyvips.version(part) for part in range(3))
        self.name = f"libvips {'.'.join(map(str, numbers))}"
        try:
            self._levels = _levels(pyvips.Image, str(path))
        except pyvips.Error as error:
            raise UnreadableError(reason(error)) from error
        first = self._levels[0]
        known = _NO_RESOLUTION not in (first.xres, first.yres)
        sizes = tuple(Size(level.width, level.height) for level in self._levels)
        self.facts = Facts(sizes, Mpp(1000 / first.xres, 1000 / first.yres) if known else None)

    def read(self, level: int, box: Box) -> Pixels:
        image = self._levels[level]
        try:
            pixels = image.crop(box.x, box.y, box.width, box.height).numpy()
        except self._error as error:
            raise UnreadableError(reason(error)) from error
        return np.asarray(pixels, np.uint8)[..., :3]

    def interpolates(self, level: int) -> bool:
        return False

    def close(self) -> None:
        self._levels.clear()


def _levels(image: Any, path: str) -> list[Any]:
    first = image.tiffload(path)
    pages, below = (
        first.get(name) if name in first.get_fields() else 0 for name in ("n-pages", "n-subifds")
    )
    if pages > 1:
        rest = [image.tiffload(path, page=page) for page in range(1, pages)]
    else:
        rest = [image.tiffload(path, subifd=index) for index in range(below)]
    tiled = [each for each in rest if "tile-width" in each.get_fields()]  # others are not levels
    return [first, *tiled]
