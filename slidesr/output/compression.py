"""Tile compressions that all common readers support, and their encoders; see docs/formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from slidesr.geometry import Pixels

COMPRESSIONS = ("jpeg", "jpeg-rgb", "lzw", "deflate", "none")


@dataclass(frozen=True)
class Compression:
    """How tiles are encoded. `quality` applies to the two JPEG kinds only.

    `jpeg` is YCbCr 4:2:0; 4:4:4 is not offered since Bio-Formats shows it in wrong colours.
    Deflate uses no predictor, since cuCIM does not support it.
    """

    name: str = "jpeg"
    quality: int = 90

    def __post_init__(self) -> None:
        if self.name not in COMPRESSIONS:
            raise ValueError(f"compression {self.name!r} is not one of {', '.join(COMPRESSIONS)}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"JPEG quality {self.quality} is not within 1..100")

    @cached_property
    def tiff_options(self) -> dict[str, Any]:
        """The options for `tifffile.TiffWriter.write`."""
        options: dict[str, dict[str, Any]] = {
            "jpeg": {"compression": "jpeg", "subsampling": (2, 2)},
            "jpeg-rgb": {
                "compression": "jpeg",
                "subsampling": (1, 1),
                "compressionargs": {"outcolorspace": "rgb"},
            },
            "lzw": {"compression": "lzw", "predictor": True},
            "deflate": {"compression": "adobe_deflate"},
            "none": {},
        }
        return {"photometric": "rgb", **options[self.name]}

    @property
    def bytes_per_px(self) -> float:
        """Bytes per level-0 pixel of stained tissue at x4, including the pyramid."""
        # Measured, JPEG at quality 90; half of that at 75, twice at 96.
        whole = {"jpeg": 0.14, "jpeg-rgb": 0.36, "lzw": 2.1, "deflate": 2.25, "none": 3.0}[
            self.name
        ]
        coarser = (30 / (120 - self.quality)) ** 2 if self.name.startswith("jpeg") else 1
        return whole * coarser * 4 / 3

    def encode(self, tile: Pixels) -> bytes:
        """A whole u8[side, side, 3] tile as its stored bytes. Releases the interpreter lock."""
        import imagecodecs  # 60 ms that `slidesr --help` need not wait for

        tile = np.ascontiguousarray(tile)
        match self.name:
            case "jpeg":
                return _jpeg(tile, self.quality, "ycbcr", "420")
            case "jpeg-rgb":
                return _jpeg(tile, self.quality, "rgb", "444")
            case "lzw":
                differences = imagecodecs.delta_encode(tile, axis=-2)
                return bytes(imagecodecs.lzw_encode(differences.tobytes()))
            case "deflate":
                return bytes(imagecodecs.zlib_encode(tile.tobytes(), level=6))
            case _:
                return tile.tobytes()


def _jpeg(tile: Pixels, quality: int, space: str, sampling: str) -> bytes:
    import imagecodecs

    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=quality, colorspace="rgb", outcolorspace=space, subsampling=sampling
        )
    )
