"""OME-Zarr stores (NGFF 0.4 and 0.5): folders, zip files, and URLs that fsspec supports."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from slidesr.errors import RefusedError, SlidesrError, printable
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.imaging.window import WindowChoice
from slidesr.runtime.paths import as_typed, is_remote
from slidesr.slide._checks import check_sane
from slidesr.slide._metadata import mpp_from_um, number
from slidesr.slide.sources.source import About, levels_from_sizes, unreadable

_PLANE, _SINGLE = ("c", "y", "x"), ("t", "z")
_UM = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


def metadata_crc(path: Path) -> int:
    """A CRC of a store's metadata; chunks are not read."""
    with closing(ZarrSource(path)) as source:
        return zlib.crc32(repr(source.documents).encode())


class ZarrSource:
    """The first image of a store: 8-bit RGB with axes c, y, x in any order; t and z of size 1."""

    def __init__(self, path: Path, window: WindowChoice = None) -> None:
        self._path, self._open = path, ExitStack()
        try:
            with ExitStack() as undo:
                store = _store(path)
                group = zarr.open_group(store, mode="r", use_consolidated=False)
                undo.callback(store.close)
                attributes = group.attrs.asdict()
                multiscale = _multiscale(attributes)
                self._axes = _axes(multiscale)
                self._arrays = [_array(group, entry["path"]) for entry in multiscale["datasets"]]
                self.about = self._about(multiscale, attributes)
                self._open = undo.pop_all()
        except (RefusedError, MemoryError):
            raise
        except Exception as error:  # from zarr, codecs, stores, and arbitrary metadata
            raise unreadable(path, f"{type(error).__name__}: {error}") from error

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level."""
        rows, columns = box.slices
        index = {"y": rows, "x": columns, "c": slice(None)}
        try:
            found = np.asarray(self._arrays[level][tuple(index.get(n, 0) for n in self._axes)])
        except MemoryError:  # a chunk that decodes to gigabytes: the sandbox must see it
            raise
        except Exception as error:  # as above
            raise SlidesrError(
                f"{self._path}: level {level} cannot be read at x {box.x}, y {box.y} "
                f"of that level: {printable(str(error))}"
            ) from error
        kept = [name for name in self._axes if name in index]
        return np.ascontiguousarray(found.transpose([kept.index(name) for name in "yxc"]))

    def close(self) -> None:
        """Closes a zip file; other stores open files on each read."""
        self._open.close()

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The facts about the image, then the metadata of each level."""
        return [asdict(self.about), *(array.metadata.to_dict() for array in self._arrays)]

    def _about(self, multiscale: Mapping[str, Any], attributes: Mapping[str, Any]) -> About:
        for array in self._arrays:
            self._check_rgb(array)
        y, x = self._axes.index("y"), self._axes.index("x")
        sizes = [Size(array.shape[x], array.shape[y]) for array in self._arrays]
        chunks = [Size(math.prod(array.chunks), 1) for array in self._arrays]
        check_sane(self._path, sizes, chunks)
        tiles = [Size(array.chunks[x], array.chunks[y]) for array in self._arrays]
        ours = attributes.get("slidesr")
        own: Mapping[str, Any] = ours if isinstance(ours, dict) else {}
        return About(
            vendor="ome-zarr",
            levels=levels_from_sizes(sizes, tiles),
            mpp=self._mpp(multiscale),
            magnification=number(str(own.get("magnification"))),
            icc_profile=_decoded(own.get("icc_profile")),
            provenance=_strings(own.get("provenance")),
        )

    def _check_rgb(self, array: zarr.Array[Any]) -> None:
        if array.dtype != np.uint8:
            raise unreadable(self._path, f"its samples are {array.dtype}, not 8-bit")
        sides = dict(zip(self._axes, array.shape, strict=True))
        if sides["c"] != 3 or any(sides.get(name, 1) != 1 for name in _SINGLE):
            raise unreadable(self._path, f"its axes are {sides}, not rows, columns, RGB")

    def _mpp(self, multiscale: Mapping[str, Any]) -> Mpp | None:
        """The scale of level 0 times that of the whole image; None without a unit."""
        scales = [
            transform["scale"]
            for part in (multiscale["datasets"][0], multiscale)
            for transform in part.get("coordinateTransformations", [])
            if transform.get("type") == "scale"
        ]
        x_um, y_um = (self._um(multiscale["axes"], scales, name) for name in "xy")
        return mpp_from_um(self._path, x_um, y_um)

    def _um(self, axes: Sequence[Mapping[str, Any]], scales: list[Any], name: str) -> float | None:
        at = self._axes.index(name)
        factor = _UM.get(str(axes[at].get("unit")))
        if not scales or factor is None:
            return None
        return math.prod(float(scale[at]) for scale in scales) * factor


def _store(path: Path) -> LocalStore | ZipStore | FsspecStore:
    if is_remote(path):
        return _remote(as_typed(path), path)
    return ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)


def _remote(url: str, path: Path) -> FsspecStore:
    try:
        return FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        raise RefusedError(
            f"{path}: {printable(str(error))}. Remote stores need: pip install 'slidesr[remote]'"
        ) from error


def _multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first multiscale image, in NGFF 0.5 or 0.4."""
    found: Mapping[str, Any] = attributes.get("ome", attributes)["multiscales"][0]
    return found


def _axes(multiscale: Mapping[str, Any]) -> list[str]:
    """The names of the axes: y, x and c once each, and optionally t and z."""
    names = [str(axis["name"]) for axis in multiscale["axes"]]
    if sorted(set(names) - set(_SINGLE)) != sorted(_PLANE) or len(set(names)) < len(names):
        raise ValueError(f"axes {names}, not y, x and c, with or without t and z")
    return names


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"a level at {name!r}, outside the store")
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name!r} is not an array")
    return array


def _decoded(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:  # not base64, or not even ASCII
        return None


def _strings(value: object) -> dict[str, str]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {str(key): value for key, value in pairs if isinstance(value, str)}
