"""How an output is stored: container, layout and compression, as the user chooses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slidesr.output.compression import Compression

LAYOUTS = ("hybrid", "ome", "generic")
NGFF_VERSIONS = ("0.4", "0.5")
_ZARR = ".zarr"
SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".ome.zarr", _ZARR)


@dataclass(frozen=True)
class Format:
    """How an output is stored; TIFF uses `compression` and `layout`, Zarr uses `ngff_version`."""

    compression: Compression = field(default_factory=Compression)
    layout: str = "hybrid"
    ngff_version: str = "0.4"

    def bytes_per_px(self, path: Path) -> float:
        """The size of a pixel of stained tissue at x4, with its share of the pyramid above it."""
        lossless = 1.3 * 4 / 3  # measured, zstd
        return lossless if is_zarr(path) else self.compression.bytes_per_px


def is_zarr(path: Path) -> bool:
    """Whether the name is that of a Zarr store, which is a folder."""
    return path.name.lower().endswith(_ZARR)
