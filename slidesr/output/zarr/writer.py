"""Writes an OME-Zarr (NGFF 0.4 or 0.5) in whole files, from whichever process encodes a block.

    NAME.ome.zarr/  .zattrs | zarr.json    the image metadata; written last
                    0/ 1/ 2/ ...           one level each: u8[c, y, x]
                       0/ROW/COLUMN        0.4: a chunk of 512 px
                       c/0/ROW/COLUMN      0.5: a shard of such chunks, one block at that level

Files are written once, in any order. The checkpoint holds the fingerprint of each: CRC and size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from slidesr.geometry import Box, Pixels
from slidesr.output.checkpoint import OutputCheckpoint
from slidesr.output.format import NGFF_VERSIONS
from slidesr.output.pyramid import EncodedBlock, EncodedTile, UpperPyramid
from slidesr.output.staging import StagedOutput, Staging, Target
from slidesr.output.zarr.chunk_storage import ChunkStorage, Folder, bytes_from_fingerprint
from slidesr.output.zarr.ngff import group_attributes, zarr_format
from slidesr.output.zarr.remote import STATE, RemoteStagedOutput
from slidesr.output.zarr.tile_files import ZarrEncoder, plain_glass
from slidesr.runtime.closeable import Closeable
from slidesr.runtime.paths import is_remote


class OmeZarrWriter(Closeable):
    """A `SlideWriter` for OME-Zarr; the store appears whole or not at all.

    Raises the errors of `StagedOutput` and `RemoteStagedOutput`, and SlidesrError where the disk or
    the store does not take more.
    """

    def __init__(self, target: Target, ngff_version: str = "0.4") -> None:
        if ngff_version not in NGFF_VERSIONS:
            raise ValueError(f"NGFF {ngff_version!r} is not one of {', '.join(NGFF_VERSIONS)}")
        self._plan, self._metadata, self._version = target.plan, target.metadata, ngff_version
        self._upper = UpperPyramid(self._plan, lambda pixels: pixels, target.glass)
        self.resumed, self.notes = 0, dict[str, str]()
        self._part, self._storage = _part(target)
        self.encode = ZarrEncoder(
            target.path, self._storage, target.plan, ngff_version, target.glass
        )
        self._levels = self.encode.levels
        self._fingerprints = [np.zeros(level.grid, np.uint64) for level in self._levels]
        self._unsynced: list[str] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            with self._part.writing():
                self._begin()
            undo.pop_all()

    def close(self) -> None:
        """Keeps a store that can be resumed and removes any other."""
        self._part.close()

    def append(self, encoded: EncodedBlock) -> None:
        """Records the files of a block, and writes the upper tiles that it completes."""
        self._part.unsettle()
        with self._part.writing():
            self._note(encoded.tiles)
            for tile in self._upper.add(encoded):
                self._note(self._write_upper(tile))

    def settle(self, blocks: int) -> None:
        """States that the first `blocks` blocks are written; saves a checkpoint now and then."""
        with self._part.writing():
            self._part.settle(lambda: self._checkpoint(blocks))

    def finish(self) -> int:
        """Writes the image metadata, syncs and publishes the store; its size in bytes."""
        self._part.unsettle()
        for number, grid in enumerate(self._fingerprints):
            _check(number, grid)
        with self._part.writing():
            self._unsynced += self._metadata_keys
            self._sync()
            self._open()
            size = sum(size for key, size in self._storage.sizes().items() if key != STATE)
        self._part.publish()
        return size

    def _begin(self) -> None:
        state = self._part.resume(self._matches)
        if state is None:
            self._storage.clear()
            for level in self._levels:
                level.create()
            return
        self.resumed, self.notes = state.blocks, dict(state.notes)
        self._upper.restore(state.arrays)
        for number, grid in enumerate(self._fingerprints):
            grid[:] = state.arrays[f"marks{number}"]
        # Files of blocks after the checkpoint go, and the group's own, which no checkpoint covers.
        known = {*self._known(self._fingerprints), *self._metadata_keys, STATE}
        self._storage.remove(self._storage.sizes().keys() - known)

    def _open(self) -> None:
        """Writes the metadata by which readers recognise an image."""
        metadata = self._metadata.noting(self.notes)
        attributes = group_attributes(self._version, metadata, len(self._levels))
        group = zarr.open_group(
            self._storage.store(), mode="a", zarr_format=zarr_format(self._version)
        )
        group.attrs.put(attributes)
        self._storage.sync(self._root_keys)
        if isinstance(self._storage, Folder):
            self._storage.sync_folders()

    @property
    def _root_keys(self) -> list[str]:
        """The group's own files; zarr writes an empty one with the first array."""
        return [".zgroup", ".zattrs"] if self._version == "0.4" else ["zarr.json"]

    @property
    def _metadata_keys(self) -> list[str]:
        """The metadata files of the levels."""
        names = [".zarray", ".zattrs"] if self._version == "0.4" else ["zarr.json"]
        return [f"{level.number}/{name}" for level in self._levels for name in names]

    def _crc_of_metadata(self) -> int:
        crc = 0
        for key in self._metadata_keys:
            crc = zlib.crc32(self._storage.read(key) or b"", crc)
        return crc

    def _known(self, grids: list[npt.NDArray[Any]]) -> dict[str, int]:
        """Key and fingerprint of every file of the levels."""
        each = zip(self._levels, grids, strict=True)
        return dict(file for level, grid in each for file in level.by_key(grid))

    def _matches(self, state: OutputCheckpoint) -> bool:
        if int(state.arrays["metadata"]) != self._crc_of_metadata():
            return False
        grids = [state.arrays[f"marks{level.number}"] for level in self._levels]
        if any(
            grid.shape != own.shape for grid, own in zip(grids, self._fingerprints, strict=True)
        ):
            return False
        return self._storage.matches(self._known(grids))

    def _checkpoint(self, blocks: int) -> OutputCheckpoint:
        self._sync()
        grids = {f"marks{number}": grid.copy() for number, grid in enumerate(self._fingerprints)}
        crc = {"metadata": np.array(self._crc_of_metadata(), np.uint32)}
        arrays = {**self._upper.arrays(), **grids, **crc}
        return OutputCheckpoint(self._part.identity, blocks, self.notes, arrays)

    def _sync(self) -> None:
        self._storage.sync(self._unsynced)
        self._unsynced.clear()

    def _note(self, files: Iterable[EncodedTile[Any]]) -> None:
        for file in files:
            value = file.data or 0
            self._fingerprints[file.level][file.row, file.column] = value
            self._unsynced.append(self._levels[file.level].key(file.row, file.column))
            self._part.written_bytes += bytes_from_fingerprint(value)

    def _write_upper(self, tile: EncodedTile[Pixels]) -> list[EncodedTile[int]]:
        level, side = self._levels[tile.level], self._plan.output_tile_px
        whole = Box(tile.column * side, tile.row * side, side, side)
        inside = whole.clipped(self._plan.levels[tile.level].box)
        pixels = plain_glass(inside, self.encode.glass) if tile.data is None else tile.data
        x0, y0 = inside.x << level.number, inside.y << level.number
        return level.write(x0, y0, pixels[: inside.height, : inside.width])


def _part(target: Target) -> tuple[Staging, ChunkStorage]:
    """The staging of an output, and the storage of its files."""
    if is_remote(target.path):
        remote = RemoteStagedOutput(target)
        return remote, remote.bucket
    part = StagedOutput(target, is_folder=True)
    return part, Folder(part.hidden.absolute())  # for processes with another working directory


def _check(level: int, fingerprints: npt.NDArray[np.uint64]) -> None:
    missing = np.argwhere(fingerprints == 0)
    if len(missing):
        row, column = missing[0]
        raise ValueError(f"level {level}: no file at row {row}, column {column}")
