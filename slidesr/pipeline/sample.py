"""A sample slide that needs no download, and a picture of a result beside bicubic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import immunohistochemistry

from slidesr.geometry import Box, Pixels
from slidesr.output.copy import write_plain
from slidesr.output.metadata import Metadata
from slidesr.slide import Frame, open_slide

_GLASS = (243, 241, 244)
_CROP_PX = 128


def write_sample_slide(path: str | Path) -> Path:
    """Writes a pyramidal TIFF of 1280 x 1024 px: scikit-image's colon section, no pixel size.

    The section is immunohistochemistry (DAB, haematoxylin), U. Khan, public domain.
    """
    slide = np.empty((1024, 1280, 3), np.uint8)
    slide[:] = _GLASS
    section: Pixels = immunohistochemistry()  # type: ignore[no-untyped-call]
    slide[256:768, 128:640], slide[256:768, 640:1152] = section, section[:, ::-1]
    facts = Metadata(None, None, None, {"notice": "sample slide of slidesr"})
    return write_plain(Path(path), Box(0, 0, 1280, 1024), lambda box: slide[box.slices], facts)


def draw_comparison(slide: Path, result: Path, picture: Path) -> Path:
    """Draws the part of the slide with most contrast, bicubic left and the result right, as PNG."""
    with open_slide(slide) as original, open_slide(result) as upscaled:
        source, frame = original.frame(), upscaled.frame()
        scale = frame.size.width // source.size.width
        box = _busiest(source)
        low = Image.fromarray(source.read(box))
        size = (box.width * scale, box.height * scale)
        bicubic = np.asarray(low.resize(size, Image.Resampling.BICUBIC))
        after = frame.read(box * scale)
    gap = np.full((size[1], 8, 3), 255, np.uint8)
    Image.fromarray(np.hstack([bicubic, gap, after])).save(picture)
    return picture


def _busiest(source: Frame) -> Box:
    """The place on a coarse grid with the strongest contrast."""
    size = source.size
    side = min(_CROP_PX, size.width, size.height)
    boxes = [
        Box(int(x), int(y), side, side)
        for x in np.linspace(0, size.width - side, 8)
        for y in np.linspace(0, size.height - side, 8)
    ]

    def contrast(box: Box) -> float:
        pixels: Pixels = source.read(box)
        return float(pixels.std())

    return max(boxes, key=contrast)
