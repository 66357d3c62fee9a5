"""An OME-Zarr (NGFF 0.4 or 0.5) whose files are whole parts of blocks, written where they are made.

    NAME.ome.zarr/  .zattrs | zarr.json    what makes an image of it; written last
                    0/ 1/ 2/ ...           a level each: u8[c, y, x]
                       0/ROW/COLUMN        0.4: a chunk of 512 px
                       c/0/ROW/COLUMN      0.5: a shard of such chunks, as large as a block there

A file is written once, in any order. The checkpoint tells the mark of each: its CRC and its bytes.
"""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from slidesr.geometry import Box, Pixels
from slidesr.output.checkpoint import OutputCheckpoint
from slidesr.output.format import NGFF_VERSIONS
from slidesr.output.pyramid import EncodedBlock, EncodedTile, UpperPyramid
from slidesr.output.staging import StagedOutput, Target, Unfinished
from slidesr.output.zarr.chunk_storage import ChunkStorage, Folder, bytes_from_fingerprint
from slidesr.output.zarr.ngff import group_attributes
from slidesr.output.zarr.remote import STATE, RemoteStagedOutput
from slidesr.output.zarr.tile_files import ZarrEncoder, plain_glass
from slidesr.runtime.closeable import Closeable
from slidesr.runtime.paths import is_remote


class OmeZarrWriter(Closeable):
    """A `SlideWriter` for OME-Zarr, which appears under its name whole or not at all.

    Errors are those of `StagedOutput` and `RemoteStagedOutput`; SlidesrError where the disk or
    the store refuses to go on.
    """

    def __init__(self, target: Target, ngff_version: str = "0.4") -> None:
        if ngff_version not in NGFF_VERSIONS:
            raise ValueError(f"NGFF {ngff_version!r} is not one of {', '.join(NGFF_VERSIONS)}")
        self._plan, self._metadata, self._version = target.plan, target.metadata, ngff_version
        self._upper = UpperPyramid(self._plan, lambda pixels: pixels, target.glass)
        self.resumed, self.notes = 0, dict[str, str]()
        self._part, self._place = _part(target)
        self.encode = ZarrEncoder(target.path, self._place, target.plan, ngff_version, target.glass)
        self._levels = self.encode.levels
        self._marks = [np.zeros(level.grid, np.uint64) for level in self._levels]
        self._unsynced: list[str] = []
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
        """Writes what makes an image of it, syncs and publishes it; its size in bytes."""
        self._part.unsettle()
        for number, marks in enumerate(self._marks):
            _check(number, marks)
        with self._part.writing():
            self._unsynced += self._metadata_keys
            self._sync()
            self._open()
            size = sum(size for key, size in self._place.sizes().items() if key != STATE)
        self._part.publish()
        return size

    def _begin(self) -> None:
        state = self._part.resumed(self._is_there)
        if state is None:
            self._place.clear()
            for level in self._levels:
                level.create()
            return
        self.resumed, self.notes = state.blocks, dict(state.notes)
        self._upper.restore(state.arrays)
        for number, marks in enumerate(self._marks):
            marks[:] = state.arrays[f"marks{number}"]
        known = {*self._known(self._marks), *self._metadata_keys, *self._root_keys, STATE}
        self._place.remove(self._place.sizes().keys() - known)  # of blocks that it does not tell

    def _open(self) -> None:
        """Writes the metadata by which a reader finds the image."""
        metadata = self._metadata.noting(self.notes)
        attributes = group_attributes(self._version, metadata, len(self._levels))
        zarr.open_group(self._place.store(), mode="r+").attrs.put(attributes)
        self._place.sync(self._root_keys)
        if isinstance(self._place, Folder):
            self._place.sync_folders()

    @property
    def _root_keys(self) -> list[str]:
        """The group's files; zarr makes an empty one with the first array."""
        return [".zgroup", ".zattrs"] if self._version == "0.4" else ["zarr.json"]

    @property
    def _metadata_keys(self) -> list[str]:
        """The files that tell of the levels."""
        names = [".zarray", ".zattrs"] if self._version == "0.4" else ["zarr.json"]
        return [f"{level.number}/{name}" for level in self._levels for name in names]

    def _crc_of_metadata(self) -> int:
        crc = 0
        for key in self._metadata_keys:
            crc = zlib.crc32(self._place.read(key) or b"", crc)
        return crc

    def _known(self, marks: list[npt.NDArray[Any]]) -> dict[str, int]:
        """Every file of the levels and its mark."""
        each = zip(self._levels, marks, strict=True)
        return dict(file for level, some in each for file in level.by_key(some))

    def _is_there(self, state: OutputCheckpoint) -> bool:
        if int(state.arrays["metadata"]) != self._crc_of_metadata():
            return False
        marks = [state.arrays[f"marks{level.number}"] for level in self._levels]
        if any(some.shape != own.shape for some, own in zip(marks, self._marks, strict=True)):
            return False
        return self._place.is_there(self._known(marks))

    def _moment(self, blocks: int) -> OutputCheckpoint:
        self._sync()
        marks = {f"marks{number}": marks.copy() for number, marks in enumerate(self._marks)}
        told = {"metadata": np.array(self._crc_of_metadata(), np.uint32)}
        arrays = {**self._upper.arrays(), **marks, **told}
        return OutputCheckpoint(self._part.identity, blocks, self.notes, arrays)

    def _sync(self) -> None:
        self._place.sync(self._unsynced)
        self._unsynced.clear()

    def _note(self, files: tuple[EncodedTile[Any], ...] | list[EncodedTile[int]]) -> None:
        for file in files:
            mark = file.data or 0
            self._marks[file.level][file.row, file.column] = mark
            self._unsynced.append(self._levels[file.level].key(file.row, file.column))
            self._part.written_bytes += bytes_from_fingerprint(mark)

    def _write_upper(self, tile: EncodedTile[Pixels]) -> list[EncodedTile[int]]:
        level, side = self._levels[tile.level], self._plan.output_tile_px
        whole = Box(tile.column * side, tile.row * side, side, side)
        inside = whole.clipped(self._plan.levels[tile.level].box)
        pixels = plain_glass(inside, self.encode.glass) if tile.data is None else tile.data
        x0, y0 = inside.x << level.number, inside.y << level.number
        return level.write(x0, y0, pixels[: inside.height, : inside.width])


def _part(target: Target) -> tuple[Unfinished, ChunkStorage]:
    """The unfinished output, and where its files go."""
    if is_remote(target.path):
        remote = RemoteStagedOutput(target)
        return remote, remote.place
    part = StagedOutput(target, is_folder=True)
    return part, Folder(part.hidden.absolute())  # the same for processes that stand elsewhere


def _check(level: int, marks: npt.NDArray[np.uint64]) -> None:
    missing = np.argwhere(marks == 0)
    if len(missing):
        row, column = missing[0]
        raise ValueError(f"level {level}: no file at row {row}, column {column}")
