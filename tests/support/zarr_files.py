"""OME-Zarr stores: written by slidesr without a network, and by zarr itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, TransposeCodec

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


_KINDS = {"c": "channel", "t": "time"}


@dataclass(frozen=True)
class Image:
    """A multiscale image by NGFF's words, of any axes, types and storage, made by zarr itself.

    `levels` are [c, y, x]; other axes in `axes` are as long as `planes` says, or 1. `scale` is that
    of y and x. `chunk` is a side of chunks; `order` F is a transposition in Zarr 3.
    """

    levels: Sequence[NDArray[Any]]
    axes: str = "cyx"
    version: str = "0.4"
    zarr_format: Any = 2
    planes: dict[str, int] = field(default_factory=dict)
    channels: Sequence[tuple[str | None, str | None]] | None = None
    unit: str | None = "micrometer"
    scale: tuple[float, float] = (0.25, 0.5)
    chunk: int = 16
    order: Any = "C"
    separator: str = "/"
    fill: int = 0
    is_sharded: bool = False

    def write(self, path: Path) -> Path:
        """A group of this image at the path."""
        group = zarr.open_group(path, mode="w", zarr_format=self.zarr_format)
        for index, level in enumerate(self.levels):
            self._write_level(group, str(index), level)
        group.attrs.update(self._said({"multiscales": [self.multiscale()], **self._omero()}))
        return path

    def multiscale(self) -> dict[str, Any]:
        """What the group says of the image, in its version."""
        levels: list[dict[str, Any]] = [{"path": str(at)} for at in range(len(self.levels))]
        told: dict[str, Any] = {"datasets": levels}
        if self.version < "0.5":
            told["version"] = self.version
        if self.version == "0.3":
            told["axes"] = list(self.axes)
        if self.version >= "0.4":
            told["axes"] = [self._axis(name) for name in self.axes]
            for at, level in enumerate(levels):
                scale = [dict(zip("yx", self.scale, strict=True)).get(n, 1.0) for n in self.axes]
                scale = [
                    s * 2**at if n in "yx" else s for n, s in zip(self.axes, scale, strict=True)
                ]
                level["coordinateTransformations"] = [{"type": "scale", "scale": scale}]
        return told

    def _axis(self, name: str) -> dict[str, str]:
        axis = {"name": name, "type": _KINDS.get(name, "space")}
        return axis | ({"unit": self.unit} if self.unit is not None and name in "yx" else {})

    def _omero(self) -> dict[str, Any]:
        if self.channels is None:
            return {}
        told = [{"label": label, "color": colour} for label, colour in self.channels]
        window = {"active": False, "window": {"start": 3, "end": 99, "min": 0, "max": 255}}
        said = [{k: v for k, v in each.items() if v is not None} | window for each in told]
        return {"omero": {"channels": said}}

    def _said(self, words: dict[str, Any]) -> dict[str, Any]:
        return {"ome": {"version": self.version, **words}} if self.version >= "0.5" else words

    def _write_level(self, group: zarr.Group, name: str, level: NDArray[Any]) -> None:
        data = level if "c" in self.axes else level[0]
        kept = [axis for axis in "cyx" if axis in self.axes]
        others = [axis for axis in self.axes if axis not in kept]
        data = data[(np.newaxis,) * len(others)]
        data = data.transpose([[*others, *kept].index(axis) for axis in self.axes])
        for at, axis in enumerate(self.axes):
            data = np.repeat(data, self.planes.get(axis, 1), axis=at) if axis in others else data
        chunks = tuple(
            min(self.chunk, side) if n in "yx" else 1
            for n, side in zip(self.axes, data.shape, strict=True)
        )
        array = group.create_array(
            name, shape=data.shape, dtype=data.dtype, chunks=chunks, fill_value=self.fill,
            **self._storage(chunks),
        )  # fmt: skip
        array[...] = data

    def _storage(self, chunks: tuple[int, ...]) -> dict[str, Any]:
        if self.zarr_format == 2:
            return {
                "order": self.order,
                "chunk_key_encoding": {"name": "v2", "separator": self.separator},
            }
        turned = TransposeCodec(order=tuple(reversed(range(len(chunks)))))
        dtype = np.asarray(self.levels[0]).dtype
        names = list(self.axes) if self.version >= "0.5" else None
        return {
            "chunk_key_encoding": {"name": "default", "separator": self.separator},
            "filters": [turned] if self.order == "F" else None,
            "serializer": BytesCodec(endian="big") if dtype.byteorder == ">" else "auto",
            "dimension_names": names,
            "shards": tuple(2 * side for side in chunks) if self.is_sharded else None,
        }


def bioformats2raw(path: Path, images: Sequence[Image], names: Sequence[str] = ()) -> Path:
    """The images in numbered groups, as bioformats2raw lays them out; `names` are in OME-XML."""
    first = images[0]
    group = zarr.open_group(path, mode="w", zarr_format=first.zarr_format)
    group.attrs.update(first._said({"bioformats2raw.layout": 3}))
    for index, image in enumerate(images):
        image.write(path / str(index))
    if names:
        listed = "".join(f'<Image ID="Image:{i}" Name="{n}"/>' for i, n in enumerate(names))
        ome = zarr.open_group(path / "OME", mode="w", zarr_format=first.zarr_format)
        ome.attrs.update(first._said({"series": [str(index) for index in range(len(names))]}))
        namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
        xml = f'<OME xmlns="{namespace}">{listed}</OME>'
        (path / "OME/METADATA.ome.xml").write_text(xml)
    return path
