"""An OME-Zarr image (NGFF 0.4 or 0.5) as zarr sees it."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import zarr

from slidesr.errors import reason
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.readers.reader import Facts, UnreadableError

Array: TypeAlias = "zarr.Array[Any]"
_UM = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


class ZarrReader:
    """The levels of the first multiscale image of a store."""

    def __init__(self, path: Path) -> None:
        self.name = f"zarr {zarr.__version__}"
        try:
            group = zarr.open_group(path, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
            self.version = "0.5" if "ome" in attributes else "0.4"
            self.metadata = attributes.get("ome", attributes)
            multiscale = self.metadata["multiscales"][0]
            self.axes = [axis["name"] for axis in multiscale["axes"]]
            self.units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}
            datasets = multiscale["datasets"]
            self.arrays = [cast(Array, group[dataset["path"]]) for dataset in datasets]
            self.scales = [_scale(self.axes, dataset) for dataset in datasets]
            profile = attributes.get("slidesr", {}).get("icc_profile")
            self._profile = None if profile is None else b64decode(profile)
            self._x, self._y = self.axes.index("x"), self.axes.index("y")
        except Exception as error:  # zarr's own, and those of unexpected metadata
            raise UnreadableError(reason(error)) from error
        sizes = tuple(map(self._size, self.arrays))
        self.facts = Facts(sizes, self._mpp(), icc_profile=self._profile)

    def read(self, level: int, box: Box) -> Pixels:
        """The first plane along every axis except c, y and x."""
        rows, columns = box.slices
        place: dict[str, Any] = {"c": slice(0, 3), "y": rows, "x": columns}
        try:
            part = self.arrays[level][tuple(place.get(axis, 0) for axis in self.axes)]
        except Exception as error:  # each codec has its own
            raise UnreadableError(reason(error)) from error
        left = [axis for axis in self.axes if axis in place]
        if "c" not in left:
            raise UnreadableError("it has no channel axis")
        pixels = np.asarray(part).transpose([left.index(axis) for axis in "yxc"])
        if pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise UnreadableError(f"its pixels are {pixels.dtype}{list(pixels.shape)}, not RGB")
        return pixels

    def interpolates(self, level: int) -> bool:
        return False

    def close(self) -> None:
        """Does nothing: no file stays open."""

    def _size(self, array: Any) -> Size:
        return Size(array.shape[self._x], array.shape[self._y])

    def _mpp(self) -> Mpp | None:
        um = [_UM.get(self.units[axis] or "") for axis in "xy"]
        scale = self.scales[0]
        if None in um or not scale:
            return None
        x, y = (factor * scale[axis] for factor, axis in zip(um, "xy", strict=True) if factor)
        return Mpp(x, y)


def _scale(axes: list[str], dataset: dict[str, Any]) -> dict[str, float]:
    """The scale of a level by axis; empty if it has none."""
    for transformation in dataset.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale":
            return dict(zip(axes, map(float, transformation["scale"]), strict=True))
    return {}
