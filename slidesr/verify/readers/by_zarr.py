"""An OME-Zarr image (NGFF 0.1 to 0.5) as zarr sees it."""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias, cast
from zipfile import ZipFile

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import ZipStore

from slidesr.errors import reason
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.readers.reader import Facts, UnreadableError

Array: TypeAlias = "zarr.Array[Any]"
_UM_BY_UNIT = {
    **dict.fromkeys(("micrometer", "micrometre", "micron", "um", "\u00b5m", "\u03bcm"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e4),
    **dict.fromkeys(("meter", "metre", "m"), 1e6),
}
_COLOURS = ("ff0000", "00ff00", "0000ff")
_ASSOCIATED = re.compile(
    r"(?<![a-z])(label|macro|thumbnail|overview|barcode)(?=image|[^a-z]|$)", re.I
)
_XML = "OME/METADATA.ome.xml"


class ZarrReader:
    """The levels of the first multiscale image of a group, or of bioformats2raw's largest group."""

    def __init__(self, path: Path) -> None:
        self.name = f"zarr {zarr.__version__}"
        store = ZipStore(path, mode="r") if path.is_file() else None
        try:
            self.group = _image_group(path, zarr.open_group(store or path, mode="r"))
            self.metadata = _metadata(self.group)
            multiscale = self.metadata["multiscales"][0]
            self.version = _version(self.group, multiscale)
            axes = multiscale.get("axes") or list("tczyx")  # implied before NGFF 0.3
            self.axes = [axis if isinstance(axis, str) else axis["name"] for axis in axes]
            self.arrays = _arrays(self.group)
            self._x, self._y = self.axes.index("x"), self.axes.index("y")
            self.scales = [_scale(self.axes, dataset) for dataset in multiscale["datasets"]]
            mpp = self._mpp(axes, _scale(self.axes, multiscale))
            sizes = tuple(map(self._size, self.arrays))
            self.facts = Facts(sizes, mpp, icc_profile=_profile(self.group))
        except Exception as error:  # zarr's own, and those of unexpected metadata
            raise UnreadableError(reason(error)) from error
        self._store = store

    def read(self, level: int, box: Box) -> Pixels:
        """The first plane along every axis except c, y and x; its channels as omero names them."""
        samples = self.decode(level, box)
        if samples.dtype != np.uint8:
            raise UnreadableError(f"its samples are {samples.dtype}, not uint8")
        return np.ascontiguousarray(samples[..., self._order(samples.shape[2])])

    def decode(self, level: int, box: Box) -> NDArray[Any]:
        """The samples as stored, of all channels: [y, x, c]. Raises UnreadableError."""
        rows, columns = box.slices
        place: dict[str, Any] = {"c": slice(None), "y": rows, "x": columns}
        try:
            part = np.asarray(self.arrays[level][tuple(place.get(axis, 0) for axis in self.axes)])
        except Exception as error:  # each codec has its own
            raise UnreadableError(reason(error)) from error
        left = [axis for axis in self.axes if axis in place]
        if "c" not in left:
            part, left = part[np.newaxis], ["c", *left]
        return part.transpose([left.index(axis) for axis in "yxc"])

    def interpolates(self, level: int) -> bool:
        return False

    def close(self) -> None:
        """Closes a zip file; of a folder, no file stays open."""
        if self._store is not None:
            self._store.close()

    def _order(self, count: int) -> list[int]:
        """Where red, green and blue are: by colours, by labels, or as stored without either."""
        channels = (self.metadata.get("omero") or {}).get("channels") or []
        if count == 1:
            return [0, 0, 0]
        if count == 3 and not channels:
            return [0, 1, 2]
        colours = [str(each.get("color")).lower().lstrip("#") for each in channels]
        labels = [str(each.get("label")).lower() for each in channels]
        for found, wanted in (
            (colours, _COLOURS),
            (labels, ("red", "green", "blue")),
            (labels, "rgb"),
        ):
            if len(found) == count == 3 and sorted(found) == sorted(wanted):
                return [found.index(each) for each in wanted]
        raise UnreadableError(f"its {count} channels are not red, green and blue")

    def _size(self, array: Array) -> Size:
        return Size(array.shape[self._x], array.shape[self._y])

    def _mpp(self, axes: Sequence[Any], whole: dict[str, float]) -> Mpp | None:
        """The scale of level 0 times that of the whole image, in units that are known."""
        units = {axis["name"]: axis.get("unit") for axis in axes if isinstance(axis, dict)}
        um = [_um(str(units.get(axis)).strip()) for axis in "xy"]
        first = self.scales[0] or whole
        if None in um or not first:
            return None
        x, y = (
            first[axis] * (whole.get(axis, 1.0) if self.scales[0] else 1.0) * (factor or 0)
            for axis, factor in zip("xy", um, strict=True)
        )
        return Mpp(x, y) if min(x, y) > 0 and math.isfinite(x * y) else None


def _um(unit: str) -> float | None:
    """Micrometres in a unit; a symbol keeps its case, a word does not, and may be a plural."""
    return _UM_BY_UNIT.get(unit if len(unit) <= 2 else unit.lower().removesuffix("s"))


def _metadata(group: zarr.Group) -> dict[str, Any]:
    """What NGFF says of a group: under `ome` from 0.5 on, else among its attributes."""
    attributes: dict[str, Any] = dict(group.attrs)
    return cast("dict[str, Any]", attributes.get("ome", attributes))


def _version(group: zarr.Group, multiscale: dict[str, Any]) -> str:
    if "ome" in group.attrs:
        return str(_metadata(group).get("version", "0.5"))
    return str(multiscale.get("version", "0.4"))


def _arrays(group: zarr.Group) -> list[Array]:
    datasets = _metadata(group)["multiscales"][0]["datasets"]
    return [cast(Array, group[dataset["path"]]) for dataset in datasets]


def _image_group(path: Path, root: zarr.Group) -> zarr.Group:
    """The group itself, or the largest that bioformats2raw numbers and does not call a label."""
    if "bioformats2raw.layout" not in _metadata(root) or "multiscales" in _metadata(root):
        return root
    names = sorted((name for name, _ in root.groups() if name.isdecimal()), key=int)
    groups = [cast(zarr.Group, root[name]) for name in names]
    titles = _titles(path)
    titles = titles if len(titles) == len(groups) else [""] * len(groups)
    ranks = [
        (not _ASSOCIATED.search(title), math.prod(_arrays(group)[0].shape[-2:]))
        for title, group in zip(titles, groups, strict=True)
    ]
    if ranks.count(max(ranks)) > 1:
        raise ValueError("several of its images are the largest")
    return groups[ranks.index(max(ranks))]


def _titles(path: Path) -> list[str]:
    """The names of the images in OME-XML; empty where it has none."""
    try:
        with ZipFile(path) if path.is_file() else nullcontext() as archive:
            xml = archive.read(_XML) if archive else (path / _XML).read_bytes()
    except (OSError, KeyError):
        return []
    images: list[bytes] = re.findall(rb"<(?:\w+:)?Image\b[^>]*>", xml)
    names = [re.search(rb'\bName="([^"]*)"', image) for image in images]
    return [name[1].decode(errors="replace") if name else "" for name in names]


def _profile(group: zarr.Group) -> bytes | None:
    """The ICC profile that slidesr stores beside the image."""
    attributes: dict[str, Any] = dict(group.attrs)
    profile = attributes.get("slidesr", {}).get("icc_profile")
    return None if profile is None else b64decode(profile)


def _scale(axes: list[str], part: dict[str, Any]) -> dict[str, float]:
    """The scale of a level or of the whole image, by axis; empty if it has none."""
    for transformation in part.get("coordinateTransformations") or ():
        if transformation.get("type") == "scale":
            return dict(zip(axes, map(float, transformation["scale"]), strict=True))
    return {}
