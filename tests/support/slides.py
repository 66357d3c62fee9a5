"""Synthetic slides, written like the real ones that are too large to keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffWriter

Pixels = NDArray[np.uint8]

_SMALLEST_LEVEL_PX = 64


def camelyon_style(path: Path, image: Pixels, mpp: float, tile: int = 512) -> None:
    """A generic tiled BigTIFF pyramid as Camelyon16 has it: JPEG tiles, resolution in cm."""
    with TiffWriter(path, bigtiff=True) as tiff:
        for index, level in enumerate(pyramid(image)):
            tiff.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90},
                subfiletype=min(index, 1),
                resolution=(1e4 / (mpp * 2**index),) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def subifd_ome(path: Path, image: Pixels, mpp: float) -> None:
    """An OME-TIFF whose lower levels are SubIFDs of the first, which OpenSlide does not see."""
    first, *rest = pyramid(image)
    metadata = {
        "axes": "YXS",
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
    }
    with TiffWriter(path, ome=True) as tiff:
        tiff.write(
            first,
            tile=(256, 256),
            photometric="rgb",
            compression="deflate",
            subifds=len(rest),
            metadata=metadata,
        )
        for level in rest:
            tiff.write(
                level, tile=(256, 256), photometric="rgb", compression="deflate", subfiletype=1
            )


def pyramid(image: Pixels) -> list[Pixels]:
    """The image and its halves, until one side is below 128 px."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * _SMALLEST_LEVEL_PX:
        levels.append(np.array(Image.fromarray(levels[-1]).reduce(2)))
    return levels


def tissue(width: int, height: int, seed: int = 0) -> Pixels:
    """Smooth blobs in the colours of an H&E stain: u8[h, w, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 64 + 2, width // 64 + 2), dtype=np.uint8)
    mask = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pink, purple = (Image.new("RGB", mask.size, colour) for colour in ("#f0c8dc", "#5a3c8c"))
    return np.array(Image.composite(pink, purple, mask))
