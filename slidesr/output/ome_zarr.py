"""An OME-Zarr (NGFF 0.4 or 0.5) whose files are whole parts of blocks, written where they are made.

    NAME.ome.zarr/  .zattrs | zarr.json
                    0/ 1/ 2/ ...           a level each: u8[c, y, x]
                       0/ROW/COLUMN        0.4: a chunk of 512 px
                       c/0/ROW/COLUMN      0.5: a shard of such chunks, as large as a block there

A file is written once, in any order. The checkpoint tells the CRC of each.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from slidesr.closing import Closing
from slidesr.durable import sync_folder
from slidesr.geometry import Box
from slidesr.output.checkpoint import Checkpoint
from slidesr.output.ngff import NGFF_VERSIONS, group_attributes
from slidesr.output.part import Part, Target
from slidesr.output.pyramid import EncodedBlock, EncodedTile, UpperPyramid
from slidesr.output.zarr_files import ZarrEncoder, plain_glass

_U8 = npt.NDArray[np.uint8]


class OmeZarrWriter(Closing):
    """Writes blocks to an OME-Zarr that appears under its name whole or not at all; a `Sink`.

    For the errors raised see `Part`; where the disk refuses to go on it is a SlidesrError.
    """

    def __init__(self, target: Target, ngff_version: str = "0.4") -> None:
        if ngff_version not in NGFF_VERSIONS:
            raise ValueError(f"NGFF {ngff_version!r} is not one of {', '.join(NGFF_VERSIONS)}")
        self._plan, self._metadata, self._version = target.plan, target.metadata, ngff_version
        self._upper = UpperPyramid(self._plan, lambda pixels: pixels, target.glass)
        self.resumed, self.notes = 0, dict[str, str]()
        self._part = Part(target, is_folder=True)
        self._root = self._part.hidden.absolute()  # the same for processes that stand elsewhere
        self.encode = ZarrEncoder(target.path, self._root, target.plan, ngff_version, target.glass)
        self._levels = self.encode.levels
        self._crcs = [np.zeros(level.grid, np.uint64) for level in self._levels]
        self._unsynced: list[Path] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            with self._part.writing():
                self._begin()
            undo.pop_all()

    def close(self) -> None:
        """Keeps what can be gone on with, and removes what is not published."""
        self._part.close()

    def append(self, encoded: EncodedBlock) -> None:
        """Notes a block that is written, and writes what it completes of the levels above."""
        self._part.unsettle()
        with self._part.writing():
            self._note(encoded.tiles)
            for tile in self._upper.add(encoded):
                self._note(self._write_upper(tile))

    def settle(self, blocks: int) -> None:
        """So many blocks are there; from time to time that is made to outlive a kill."""
        with self._part.writing():
            self._part.settle(lambda: self._moment(blocks))

    def finish(self) -> int:
        """Writes what was learnt, syncs and publishes the folder; its size in bytes."""
        self._part.unsettle()
        for number, crcs in enumerate(self._crcs):
            _check(number, crcs)
        with self._part.writing():
            if self.notes:
                metadata = self._metadata.noting(self.notes)
                group = zarr.open_group(LocalStore(self._root), mode="r+")
                group.attrs.put(group_attributes(self._version, metadata, len(self._levels)))
            self._unsynced += _metadata_files(self._root)
            self._sync()
            for folder, _, _ in os.walk(self._root):
                sync_folder(Path(folder))
            size = sum(file.stat().st_size for file in self._root.rglob("*") if file.is_file())
        self._part.publish()
        return size

    def _begin(self) -> None:
        state = self._part.resumed(self._is_there)
        if state is None:
            _empty(self._root)
            self._create()
            return
        self.resumed, self.notes = state.blocks, dict(state.notes)
        self._upper.restore(state.arrays)
        for number, crcs in enumerate(self._crcs):
            crcs[:] = state.arrays[f"crcs{number}"]
        each = zip(self._levels, self._crcs, strict=True)
        known = {path for level, crcs in each for path in level.files(crcs)}
        for file in set(_data_files(self._root)) - known:
            file.unlink()  # of blocks that the checkpoint does not tell

    def _create(self) -> None:
        attributes = group_attributes(self._version, self._metadata, len(self._levels))
        store = LocalStore(self._root)
        zarr.create_group(
            store, zarr_format=2 if self._version == "0.4" else 3, attributes=attributes
        )
        for level in self._levels:
            level.create()

    def _is_there(self, state: Checkpoint) -> bool:
        if int(state.arrays["metadata"]) != _crc_of_all(_metadata_files(self._root)):
            return False
        return all(level.is_there(state.arrays[f"crcs{level.number}"]) for level in self._levels)

    def _moment(self, blocks: int) -> Checkpoint:
        self._sync()
        crcs = {f"crcs{number}": crcs.copy() for number, crcs in enumerate(self._crcs)}
        told = {"metadata": np.array(_crc_of_all(_metadata_files(self._root)), np.uint32)}
        arrays = {**self._upper.arrays(), **crcs, **told}
        return Checkpoint(self._part.identity, blocks, self.notes, arrays)

    def _sync(self) -> None:
        for path in self._unsynced:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._unsynced.clear()

    def _note(self, files: tuple[EncodedTile[Any], ...] | list[EncodedTile[int]]) -> None:
        for file in files:
            self._crcs[file.level][file.row, file.column] = file.data or 0
            path = self._levels[file.level].file(file.row, file.column)
            self._unsynced.append(path)
            self._part.written_bytes += path.stat().st_size

    def _write_upper(self, tile: EncodedTile[_U8]) -> list[EncodedTile[int]]:
        level, side = self._levels[tile.level], self._plan.output_tile_px
        whole = Box(tile.column * side, tile.row * side, side, side)
        inside = whole.clipped(self._plan.levels[tile.level].box)
        pixels = plain_glass(inside, self.encode.glass) if tile.data is None else tile.data
        x0, y0 = inside.x << level.number, inside.y << level.number
        return level.write(x0, y0, pixels[: inside.height, : inside.width])


def _check(level: int, crcs: npt.NDArray[np.uint64]) -> None:
    missing = np.argwhere(crcs == 0)
    if len(missing):
        row, column = missing[0]
        raise ValueError(f"level {level}: no file at row {row}, column {column}")


def _crc_of_all(paths: list[Path]) -> int:
    crc = 0
    for path in paths:
        crc = zlib.crc32(path.read_bytes(), crc)
    return crc


def _metadata_files(root: Path) -> list[Path]:
    names = (".zgroup", ".zattrs", ".zarray", "zarr.json")
    return sorted(path for folder in (root, *root.glob("*")) for path in _named(folder, names))


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [path for name in names if (path := folder / name).is_file()]


def _data_files(root: Path) -> Iterator[Path]:
    metadata = set(_metadata_files(root))
    return (path for path in root.rglob("*") if path.is_file() and path not in metadata)


def _empty(root: Path) -> None:
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
