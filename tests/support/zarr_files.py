"""OME-Zarr stores: written by slidesr without a network, and by zarr itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from slidesr.output.staging import Target
from slidesr.output.zarr.writer import OmeZarrWriter
from support.blocks import GLASS, Sheet
from support.files import content
from support.slides import pyramid, tissue


@dataclass(frozen=True)
class Store:
    """Pixels and the NGFF version they are written in."""

    sheet: Sheet
    version: str
    overwrite: bool = False

    def writer(self, path: Path) -> OmeZarrWriter:
        sheet = self.sheet
        target = Target(path, sheet.plan, sheet.metadata, GLASS, self.overwrite, {"slide": "a"})
        return OmeZarrWriter(target, self.version)

    def append(self, writer: OmeZarrWriter, count: int | None = None) -> None:
        for index, painted in list(enumerate(self.sheet.painted()))[writer.resumed : count]:
            writer.append(writer.encode(painted))
            writer.settle(index + 1)

    def write(self, path: Path) -> Path:
        with self.writer(path) as writer:
            self.append(writer)
            assert writer.finish() == sum(map(len, content(path).values()))
        return path


def rgb_store(path: Path, version: str, **change: Any) -> Path:
    """An RGB image of three levels by NGFF's words, made by zarr itself."""
    levels = pyramid(tissue(512, 384))[:3]
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for index, level in enumerate(levels):
        names: dict[str, Any] = {"dimension_names": ["c", "y", "x"]}
        array = group.create_array(
            str(index),
            data=np.moveaxis(level, 2, 0),
            chunks=(3, 128, 128),
            **(names if version == "0.5" else {"chunk_key_encoding": {"name": "v2"}}),
        )
        assert array.shape[0] == 3
    words = {"multiscales": [multiscale(len(levels), version)], "omero": _omero()} | change
    group.attrs.update({"ome": {"version": version, **words}} if version == "0.5" else words)
    return path


def multiscale(levels: int, version: str) -> dict[str, Any]:
    """What such a store says of its levels."""
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    told: dict[str, Any] = {
        "axes": [{"name": "c", "type": "channel"}, *space],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, 0.25 * 2**level, 0.25 * 2**level]}
                ],
            }
            for level in range(levels)
        ],
    }
    return told | ({"version": "0.4"} if version == "0.4" else {})


def _omero() -> dict[str, Any]:
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    colours = {"Red": "FF0000", "Green": "00FF00", "Blue": "0000FF"}
    return {
        "channels": [
            {"label": label, "color": colour, "window": window, "active": True}
            for label, colour in colours.items()
        ]
    }
