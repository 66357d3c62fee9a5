"""The tissue mask of a slide: reading one, restricting it, and testing the cells of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidesr.errors import RefusedError
from slidesr.geometry import Box, Size
from slidesr.runtime.paths import IMAGE_FORMATS, check_file

Mask = NDArray[np.bool_]
"""bool[h, w], True is tissue."""

WHITE = (255, 255, 255)
_MAX_MASK_PX = 2**26  # counting takes 16 bytes a pixel


@dataclass(frozen=True, eq=False)
class Tissue:
    """A mask of a whole slide, at any resolution, and the colour of its empty glass."""

    mask: Mask  # [h, w], True is tissue
    glass: tuple[int, int, int]  # red, green, blue in 0..255; white if no glass is visible

    @property
    def share(self) -> float:
        """The share of the mask that is tissue, 0..1."""
        return float(self.mask.mean())

    def cells(self, box: Box, frame: Size, cell: int) -> Mask:
        """Which cells of `cell` px in `box` contain tissue: bool[rows, columns].

        `box` is in pixels of `frame`, the whole slide, and aligned to the grid; outside the frame
        there is no tissue. A cell contains tissue if any mask pixel that overlaps it does.

        >>> mask = np.array([[False, True, False, False]])
        >>> Tissue(mask, (255, 255, 255)).cells(Box(0, 0, 12, 6), Size(12, 5), cell=6)
        array([[ True, False]])
        """
        if box.snapped(cell) != box:
            raise ValueError(f"{box} is not on the grid of {cell} px")
        x = np.arange(box.x, box.right + 1, cell)
        y = np.arange(box.y, box.bottom + 1, cell)
        return self._any(y, frame.height, x, frame.width)

    def restricted(self, roi: Mask) -> Tissue:
        """The tissue inside `roi`, a mask [h, w] of the same slide at any resolution."""
        height, width = np.maximum(self.mask.shape, roi.shape)
        y, x = np.arange(height + 1), np.arange(width + 1)
        both = [t._any(y, height, x, width) for t in (self, Tissue(roi, self.glass))]
        return Tissue(both[0] & both[1], self.glass)

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """The summed-area table: the tissue above and left of each mask corner, in pixels."""
        padded = np.pad(self.mask, ((1, 0), (1, 0)))
        return padded.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)

    def _any(self, y: NDArray[np.int64], height: int, x: NDArray[np.int64], width: int) -> Mask:
        """Whether tissue overlaps each interval of the ascending y and x of a frame."""
        top, bottom = _overlapped(y, height, self.mask.shape[0])
        left, right = _overlapped(x, width, self.mask.shape[1])
        n = self._counts
        rows = n[bottom] - n[top]
        return rows[:, right] - rows[:, left] > 0


def all_tissue() -> Tissue:
    """A mask in which everything is tissue."""
    return Tissue(np.ones((1, 1), np.bool_), WHITE)


def read_mask(path: Path, frame_aspect: Size) -> Tissue:
    """Reads a mask image of the whole slide: tissue is what is neither zero nor transparent.

    Raises RefusedError where it cannot be read or has not the shape of the slide.
    """
    check_file(path)
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > _MAX_MASK_PX:
                raise RefusedError(
                    f"{path}: a mask of {image.width} x {image.height} px is too large."
                    " Give a smaller one; 20 um per pixel is enough."
                )
            mask = _nonzero(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RefusedError(f"{path}: not a readable mask ({error}). Give a PNG image.") from error
    height, width = mask.shape
    stretch = width * frame_aspect.height / (height * frame_aspect.width)
    # 2% for a mask of a slightly cropped slide; a pixel for the rounding of small masks
    if abs(np.log(stretch)) > max(0.02, 1 / width, 1 / height):
        raise RefusedError(
            f"{path}: {width} x {height} px is not the shape of the slide, {frame_aspect} px. "
            "Give a mask of the whole slide."
        )
    return Tissue(mask, WHITE)


def _overlapped(
    edges: NDArray[np.int64], length: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and end of the mask pixels, `count` over `length`, that each interval overlaps."""
    first = edges[:-1] * count // length
    end = -(-edges[1:] * count // length)
    return first.clip(0, count), end.clip(0, count)


def _nonzero(image: Image.Image) -> Mask:
    """What is neither zero nor transparent; in a palette image by index, not by colour."""
    seen = np.atleast_3d(np.asarray(image)) != 0
    if "A" in image.getbands():
        seen = seen[..., :-1] & seen[..., -1:]
    return np.asarray(seen.any(axis=-1))
