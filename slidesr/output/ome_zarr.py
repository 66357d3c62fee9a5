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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from slidesr.closing import Closing
from slidesr.durable import sync_folder
from slidesr.geometry import Box
from slidesr.output.checkpoint import Checkpoint
from slidesr.output.ngff import AXES, NGFF_VERSIONS, group_attributes
from slidesr.output.part import Part, Target
from slidesr.output.pyramid import EncodedBlock, EncodedTile, Painted, UpperPyramid, halved

_U8 = npt.NDArray[np.uint8]

# Measured on upscaled H&E, one thread: 1.27 bytes a pixel at 174 Mpx/s; level 5: 1.21 at 50.
_CODEC: Literal["zstd"] = "zstd"
_CODEC_LEVEL = 1


class OmeZarrWriter(Closing):
    """Writes blocks to an OME-Zarr that appears under its name whole or not at all; a `Sink`.

    For the errors raised see `Part`; where the disk refuses to go on it is a SlidesrError.
    """

    def __init__(self, target: Target, ngff_version: str = "0.4") -> None:
        if ngff_version not in NGFF_VERSIONS:
            raise ValueError(f"NGFF {ngff_version!r} is not one of {', '.join(NGFF_VERSIONS)}")
        self._plan, self._metadata, self._version = target.plan, target.metadata, ngff_version
        self._glass = target.glass
        self._upper = UpperPyramid(self._plan, lambda pixels: pixels, target.glass)
        self.resumed, self.notes = 0, dict[str, str]()
        self._part = Part(target, is_folder=True)
        self._root = self._part.hidden
        self._unsynced: list[Path] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            with self._part.writing():
                self._levels = [self._level(number) for number in range(len(self._plan.levels))]
                self._begin()
            undo.pop_all()

    def close(self) -> None:
        """Keeps what can be gone on with, and removes what is not published."""
        self._part.close()

    def encode(self, painted: Painted) -> EncodedBlock:
        """Writes the block's own levels; what it gives are the CRCs of files. For any thread."""
        block, files = painted.block, list[EncodedTile[int]]()
        pixels = self._glass_of(block.write) if painted.pixels is None else painted.pixels
        with self._part.writing():
            for level in self._levels[: self._plan.block_levels]:
                files += level.write(block.write.x, block.write.y, pixels)
                pixels = halved(pixels)
        is_rest = self._plan.block_levels < len(self._levels) and painted.pixels is not None
        return EncodedBlock(block, tuple(files), pixels if is_rest else None)

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
        for level in self._levels:
            level.check()
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
        for level in self._levels:
            level.crcs[:] = state.arrays[f"crcs{level.number}"]
            level.open()
        known = {path for level in self._levels for path in level.files()}
        for file in set(_data_files(self._root)) - known:
            file.unlink()  # of blocks that the checkpoint does not tell

    def _create(self) -> None:
        attributes = group_attributes(self._version, self._metadata, len(self._levels))
        store = LocalStore(self._root)
        zarr.create_group(
            store, zarr_format=2 if self._version == "0.4" else 3, attributes=attributes
        )
        for level in self._levels:
            level.create(self._version)

    def _level(self, number: int) -> _Level:
        plan = self._plan
        size, chunk_px = plan.levels[number], plan.output_tile_px
        file_px = chunk_px
        if self._version == "0.5" and number < plan.block_levels:
            file_px = plan.block_px >> number
        return _Level(self._root, number, (size.height, size.width), chunk_px, file_px)

    def _is_there(self, state: Checkpoint) -> bool:
        if int(state.arrays["metadata"]) != _crc_of_all(_metadata_files(self._root)):
            return False
        return all(level.is_there(state.arrays[f"crcs{level.number}"]) for level in self._levels)

    def _moment(self, blocks: int) -> Checkpoint:
        self._sync()
        crcs = {f"crcs{level.number}": level.crcs.copy() for level in self._levels}
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
            level = self._levels[file.level]
            level.crcs[file.row, file.column] = file.data or 0
            path = level.file(file.row, file.column)
            self._unsynced.append(path)
            self._part.written_bytes += path.stat().st_size

    def _write_upper(self, tile: EncodedTile[_U8]) -> list[EncodedTile[int]]:
        level, side = self._levels[tile.level], self._plan.output_tile_px
        whole = Box(tile.column * side, tile.row * side, side, side)
        inside = whole.clipped(self._plan.levels[tile.level].box)
        pixels = self._glass_of(inside) if tile.data is None else tile.data
        x0, y0 = inside.x << level.number, inside.y << level.number
        return level.write(x0, y0, pixels[: inside.height, : inside.width])

    def _glass_of(self, box: Box) -> _U8:
        """Plain glass; a Zarr has no tile that many places share."""
        return np.full((box.height, box.width, 3), self._glass, np.uint8)


class _Level:
    """The array of one level, its files, and the CRC of each; 0 for those that are not there."""

    def __init__(
        self, root: Path, number: int, shape: tuple[int, int], chunk_px: int, file_px: int
    ) -> None:
        self.number = number
        self._root, self._shape, self._chunk_px, self._file_px = root, shape, chunk_px, file_px
        self.crcs = np.zeros(tuple(-(-side // file_px) for side in shape), np.uint64)
        self._array: zarr.Array[Any]
        self._prefix = ""

    def create(self, version: str) -> None:
        chunks, file = ((3, side, side) for side in (self._chunk_px, self._file_px))
        if version == "0.4":
            kind: dict[str, Any] = {
                "compressors": Blosc(_CODEC, _CODEC_LEVEL, Blosc.BITSHUFFLE),
                "chunk_key_encoding": {"name": "v2", "separator": "/"},
            }
        else:
            kind = {
                "compressors": BloscCodec(
                    cname=_CODEC, clevel=_CODEC_LEVEL, shuffle="bitshuffle", typesize=1
                ),
                "shards": file if file != chunks else None,
                "dimension_names": AXES,
            }
        zarr.open_group(LocalStore(self._root), mode="r+").create_array(
            str(self.number),
            shape=(3, *self._shape),
            chunks=chunks,
            dtype=np.uint8,
            fill_value=0,
            attributes={"_ARRAY_DIMENSIONS": list(AXES)},
            **kind,
        )
        self.open()

    def open(self) -> None:
        array = zarr.open_array(LocalStore(self._root), path=str(self.number), mode="r+")
        # A chunk of zeros is a file too: each file has its CRC, and none is missing at the end.
        self._array = array.with_config({"write_empty_chunks": True})
        self._prefix = "0" if array.metadata.zarr_format == 2 else "c/0"

    def write(self, x0: int, y0: int, pixels: _U8) -> list[EncodedTile[int]]:
        """Writes u8[h, w, 3] at a place of level 0: whole files, but at the border; their CRCs."""
        x, y = x0 >> self.number, y0 >> self.number
        height, width = pixels.shape[:2]
        self._array[:, y : y + height, x : x + width] = pixels.transpose(2, 0, 1)
        side = self._file_px
        return [
            EncodedTile(self.number, row, column, _crc(self.file(row, column)))
            for row in range(y // side, -(-(y + height) // side))
            for column in range(x // side, -(-(x + width) // side))
        ]

    def file(self, row: int, column: int) -> Path:
        return self._root / str(self.number) / self._prefix / str(row) / str(column)

    def files(self) -> Iterator[Path]:
        """Those that are there."""
        for row, column in np.argwhere(self.crcs).tolist():
            yield self.file(row, column)

    def is_there(self, crcs: npt.NDArray[Any]) -> bool:
        """Whether every file is what its CRC tells."""
        if crcs.shape != self.crcs.shape:
            return False
        self.open()
        places = np.argwhere(crcs).tolist()
        return all(_crc(self.file(*place)) == crcs[tuple(place)] for place in places)

    def check(self) -> None:
        missing = np.argwhere(self.crcs == 0)
        if len(missing):
            row, column = missing[0]
            raise ValueError(f"level {self.number}: no file at row {row}, column {column}")


def _crc(path: Path) -> int:
    """A file's CRC-32 and one more bit, so that it is never 0; 0 where there is no file."""
    try:
        return zlib.crc32(path.read_bytes()) | 1 << 32
    except FileNotFoundError:
        return 0


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
