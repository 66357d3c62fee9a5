"""Broken OME-Zarr stores: hostile words, absurd shapes, chunks that decode to gigabytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import zarr

from malformed.tiff_files import IMAGE, TILE

_KINDS = {"c": "channel", "y": "space", "x": "space"}
_AXES = [{"name": name, "type": kind} for name, kind in _KINDS.items()]


def sound(folder: Path) -> None:
    """A store of one level, of Zarr's format 2, whose words are plain JSON files."""
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}
    images: Any = [{"version": "0.4", "axes": _AXES, "datasets": [level]}]
    group.attrs["multiscales"] = images
    pixels = np.moveaxis(IMAGE, 2, 0)
    array = group.create_array("0", shape=pixels.shape, chunks=(1, TILE, TILE), dtype="u1")
    array[:] = pixels


def stores(folder: Path) -> Iterator[tuple[str, Path]]:
    """One for each change of its words, and for each change of its chunks."""
    sound(folder / "sound")
    level = {"path": "0"}
    images: dict[str, Any] = {
        "nothing": [], "null": None, "axes-twice": [{"axes": _AXES * 2, "datasets": [level]}],
        "above": [{"axes": _AXES, "datasets": [{"path": "../../../etc"}]}],
        "absolute": [{"axes": _AXES, "datasets": [{"path": "/etc"}]}],
        "levels-1000": [{"axes": _AXES, "datasets": [level] * 1000}],
    }  # fmt: skip
    for name, image in images.items():
        yield "INPUT", _changed(folder, name, ".zattrs", {"multiscales": image})
    arrays: dict[str, dict[str, Any]] = {
        "shape-2^62": {"shape": [3, 2**62, 2**62]}, "shape-negative": {"shape": [3, -1, 5]},
        "chunks-0": {"chunks": [1, 0, 0]}, "chunks-2^31": {"chunks": [3, 2**31, 2**31]},
        "floats": {"dtype": "<f8"}, "objects": {"dtype": "|O"},
        "codec-unknown": {"compressor": {"id": "evil"}},
        "pickles": {"dtype": "|O", "filters": [{"id": "pickle"}]},
    }  # fmt: skip
    for name, change in arrays.items():
        yield "INPUT", _changed(folder, name, "0/.zarray", change)
    yield "INPUT", _changed(folder, "json", "0/.zarray", "{" * 10_000)
    bombs = {
        "zstd": imagecodecs.zstd_encode(bytes(1 << 31), 1),
        "zlib": imagecodecs.zlib_encode(bytes(1 << 29), 1),
    }
    for name, chunk in {**bombs, "noise": b"\xff" * 999}.items():
        codec = "zstd" if name == "noise" else name
        store = _changed(
            folder, f"chunk-{name}", "0/.zarray", {"compressor": {"id": codec, "level": 1}}
        )
        for path in (store / "0").glob("[0-9]*"):
            path.write_bytes(bytes(chunk))
        yield "INPUT", store


def _changed(folder: Path, name: str, file: str, change: Any) -> Path:
    store = folder / f"{name}.zarr"
    shutil.copytree(folder / "sound", store)
    words = json.loads((store / file).read_text())
    text = change if isinstance(change, str) else json.dumps(words | change)
    (store / file).write_text(text)
    return store
