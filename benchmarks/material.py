"""Synthetic slides for benchmarks: real texture on glass, of any size, small on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage.data import immunohistochemistry

from slidesr.geometry import Box, Mpp
from slidesr.output.copy import write_plain
from slidesr.output.metadata import Metadata

GLASS = (243, 241, 244)


def write_slide(path: Path, side_px: int, tissue_px: int) -> Path:
    """Writes a pyramidal BigTIFF with a side of `side_px` and a central square of tissue.

    All glass tiles share one stored tile, so 100,000 x 100,000 px take a few megabytes.
    """
    start = (side_px - tissue_px) // 2
    tissue = Box(start, start, tissue_px, tissue_px)

    def pixels(box: Box) -> npt.NDArray[np.uint8] | None:
        shared = box.clipped(tissue)
        if not shared.area:
            return None
        image = np.empty((box.height, box.width, 3), np.uint8)
        image[:] = GLASS
        image[shared.within(box).slices] = texture(shared.within(tissue))
        return image

    facts = Metadata(Mpp(1.0, 1.0), 10.0, None)
    return write_plain(path, Box(0, 0, side_px, side_px), pixels, facts, GLASS)


def texture(box: Box) -> npt.NDArray[np.uint8]:
    """Crops an infinite section: scikit-image's colon, tiled by mirroring."""
    section: npt.NDArray[np.uint8] = immunohistochemistry()  # type: ignore[no-untyped-call]
    tile = np.block([[[section], [section[:, ::-1]]], [[section[::-1]], [section[::-1, ::-1]]]])
    rows, columns = (np.arange(part.start, part.stop) % 1024 for part in box.slices)
    return np.ascontiguousarray(tile[np.ix_(rows, columns)])
