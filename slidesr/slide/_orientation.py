"""The orientation of TIFF tag 274 and EXIF: how stored pixels are turned to be shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slidesr.geometry import Box, Mpp, Pixels, Size


@dataclass(frozen=True)
class Orientation:
    """Stored pixels are transposed, then mirrored from left to right and from top to bottom.

    The values 1 (as stored) to 8 are those of TIFF 6.0, p. 36.
    """

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def of_tag(cls, value: int) -> Orientation:
        """Other values mean as stored, as in libtiff."""
        if not 1 <= value <= 8:
            return cls()
        return cls(value >= 5, value in (2, 3, 6, 7), value in (3, 4, 7, 8))

    @property
    def is_as_stored(self) -> bool:
        return self == Orientation()

    def size(self, stored: Size) -> Size:
        """The size as shown."""
        return Size(stored.height, stored.width) if self.transposed else stored

    def mpp(self, stored: Mpp) -> Mpp:
        """The pixel size as shown."""
        return Mpp(stored.y, stored.x) if self.transposed else stored

    def stored_box(self, box: Box, shown: Size) -> Box:
        """Where the pixels of a box of the image as shown, of size `shown`, are stored."""
        x = shown.width - box.right if self.mirrored_x else box.x
        y = shown.height - box.bottom if self.mirrored_y else box.y
        if self.transposed:
            return Box(y, x, box.height, box.width)
        return Box(x, y, box.width, box.height)

    def shown(self, stored: Pixels) -> Pixels:
        """Turns stored pixels, u8[h, w, 3]."""
        pixels = stored.transpose(1, 0, 2) if self.transposed else stored
        pixels = pixels[:, ::-1] if self.mirrored_x else pixels
        pixels = pixels[::-1] if self.mirrored_y else pixels
        return np.ascontiguousarray(pixels)
