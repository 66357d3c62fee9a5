"""Writes a pyramidal BigTIFF whose levels OpenSlide, Bio-Formats and other readers all find.

tifffile writes every directory (IFD) first, complete except for the tile offsets and byte counts;
encoded tiles are appended as they arrive; offsets and counts are filled in at the end. So the file
is written once, front to back, and memory is 16 bytes a tile.

    header | IFD 0 | SubIFD 1 .. n | tile, tile, tile, ... | copies of SubIFD 1 .. n
             |  |_____^                                      ^
             |_______________________________________________|   (hybrid layout)
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from io import BytesIO
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from slidesr.output.checkpoint import OutputCheckpoint, crc_of
from slidesr.output.compression import Compression
from slidesr.output.format import LAYOUTS
from slidesr.output.metadata import Metadata, ome_xml, plain_text
from slidesr.output.pyramid import EncodedBlock, UpperPyramid, encode_block
from slidesr.output.staging import StagedOutput, Target
from slidesr.runtime.closeable import Closeable
from slidesr.tiling import TilePlan

"""`hybrid`: the levels as SubIFDs, and again as copies of these small directories in the main
chain, for readers of either kind. `ome`: SubIFDs alone, the letter of OME-TIFF. `generic`: a plain
chain of directories without OME-XML."""


class OmeTiffWriter(Closeable):
    """A `SlideWriter` for TIFF; the file appears whole or not at all.

    Raises the errors of `StagedOutput`, and SlidesrError where the disk does not take more.
    """

    def __init__(self, target: Target, compression: Compression, layout: str = "hybrid") -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
        plan, metadata, self._glass = target.plan, target.metadata, target.glass
        self._plan, self._metadata, self._layout = plan, metadata, layout
        self._encode = compression.encode
        self.encode = partial(encode_block, plan=plan, encode=compression.encode)
        self._upper = UpperPyramid(plan, self._encode, target.glass)
        self._levels = [_TileIndex(plan, level) for level in range(len(plan.levels))]
        self._glass_entry = 0, 0
        self.resumed, self.notes = 0, dict[str, str]()
        self._part = StagedOutput(target)
        self._file = self._part.hidden.open("r+b")
        with ExitStack() as undo:
            undo.callback(self.close)
            skeleton = _skeleton(plan, metadata, compression, layout)
            with self._part.writing():
                self._begin(skeleton)
            undo.pop_all()

    def close(self) -> None:
        """Keeps a staging file that can be resumed and removes any other."""
        self._part.close()
        with suppress(OSError):  # bytes a full disk refused are in no checkpoint
            self._file.close()

    def _begin(self, skeleton: bytes) -> None:
        self._end, self._crc = len(skeleton), 0
        state = self._part.resume(self._matches)
        if state is not None:
            self.resumed, self.notes = state.blocks, dict(state.notes)
            self._restore(state.arrays)
        self._file.seek(0)
        self._file.write(skeleton)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _matches(self, state: OutputCheckpoint) -> bool:
        end, crc = map(int, state.arrays["end"])
        return crc_of(self._file, self._end, end) == crc

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        indexes = {f"places{level}": each.array for level, each in enumerate(self._levels)}
        end = {"end": np.array([self._end, self._crc], np.uint64)}
        glass = {"glass": np.array(self._glass_entry, np.uint64)}
        return {**self._upper.arrays(), **indexes, **end, **glass}

    def _restore(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._upper.restore(arrays)
        self._end, self._crc = map(int, arrays["end"])
        offset, count = map(int, arrays["glass"])
        self._glass_entry = offset, count
        for level, index in enumerate(self._levels):
            index.restore(arrays[f"places{level}"])

    def append(self, encoded: EncodedBlock) -> None:
        """Writes the tiles of a block, and the upper tiles that it completes."""
        self._part.unsettle()
        with self._part.writing():
            for tile in chain(encoded.tiles, self._upper.add(encoded)):
                entry = self._glass_tile() if tile.data is None else self._store(tile.data)
                self._levels[tile.level].set(tile.row, tile.column, entry)
        self._part.written_bytes = self._end

    def settle(self, blocks: int) -> None:
        """States that the first `blocks` blocks are written; saves a checkpoint now and then."""
        with self._part.writing():
            self._part.settle(lambda: self._checkpoint(blocks))

    def _checkpoint(self, blocks: int) -> OutputCheckpoint:
        self._file.flush()
        os.fsync(self._file.fileno())
        return OutputCheckpoint(self._part.identity, blocks, self.notes, self._arrays())

    def finish(self) -> int:
        """Fills in the tile offsets, syncs and publishes the file; its size in bytes."""
        self._part.unsettle()
        for level in self._levels:
            level.check()
        with self._part.writing():
            self._fill_in()
            self._file.flush()
            os.fsync(self._file.fileno())
        size = self._file.seek(0, os.SEEK_END)
        self._part.publish()
        return size

    def _fill_in(self) -> None:
        self._file.seek(0)  # where tifffile assumes that the file begins
        with tifffile.TiffFile(self._file, is_ome=False) as tiff:
            pages = list(_pages(tiff, self._layout))
            for page, level in zip(pages, self._levels, strict=True):
                page.tags["TileOffsets"].overwrite(level.offsets, erase=False)
                page.tags["TileByteCounts"].overwrite(level.counts, erase=False)
            if self.notes:
                text = _description(self._plan, self._metadata.noting(self.notes), self._layout)
                pages[0].tags["ImageDescription"].overwrite(text, erase=False)
            sub_offsets = [page.offset for page in pages[1:]]
            end_of_chain = pages[0].offset
        if self._layout == "hybrid":
            _chain_copies(self._file, end_of_chain, sub_offsets)

    def _store(self, data: bytes) -> tuple[int, int]:
        offset = self._end
        self._file.write(data)
        self._end += len(data)
        self._crc = zlib.crc32(data, self._crc)
        return offset, len(data)

    def _glass_tile(self) -> tuple[int, int]:
        """Offset and length of the tile that all plain glass shares; stored at its first use."""
        if self._glass_entry == (0, 0):
            side = self._plan.output_tile_px
            tile = np.full((side, side, 3), self._glass, np.uint8)
            self._glass_entry = self._store(self._encode(tile))
        return self._glass_entry


class _TileIndex:
    """Offset and length of each tile of one level, row by row as in TIFF."""

    def __init__(self, plan: TilePlan, level: int) -> None:
        size, side = plan.levels[level], plan.output_tile_px
        shape = (-(-size.height // side), -(-size.width // side))
        self._level = level
        self._offsets: npt.NDArray[np.uint64] = np.zeros(shape, np.uint64)
        self._counts: npt.NDArray[np.uint64] = np.zeros(shape, np.uint64)

    def set(self, row: int, column: int, entry: tuple[int, int]) -> None:
        self._offsets[row, column], self._counts[row, column] = entry

    @property
    def array(self) -> npt.NDArray[np.uint64]:
        """u64[2, rows, columns]: offsets, and lengths in bytes."""
        return np.stack([self._offsets, self._counts])

    def restore(self, array: npt.NDArray[np.generic]) -> None:
        self._offsets[:], self._counts[:] = array

    @property
    def offsets(self) -> list[int]:
        return list(map(int, self._offsets.flat))

    @property
    def counts(self) -> list[int]:
        return list(map(int, self._counts.flat))

    def check(self) -> None:
        """Raises ValueError if a tile is missing: sparse tiles read as black or fail."""
        missing = np.argwhere(self._offsets == 0)
        if len(missing):
            row, column = missing[0]
            raise ValueError(f"level {self._level}: no tile at row {row}, column {column}")


def _skeleton(plan: TilePlan, metadata: Metadata, compression: Compression, layout: str) -> bytes:
    """Every directory of the file, with room for tile offsets and byte counts."""
    file = BytesIO()
    sub_levels = 0 if layout == "generic" else len(plan.levels) - 1
    side = plan.output_tile_px
    with tifffile.TiffWriter(file, bigtiff=True, byteorder="<") as writer:
        for level, size in enumerate(plan.levels):
            first: dict[str, Any] = {}
            if level == 0:
                first = {"subifds": sub_levels, "iccprofile": metadata.icc_profile}
                first["description"] = _description(plan, metadata, layout)
            count = -(-size.height // side) * -(-size.width // side)
            writer.write(
                iter([b""] * count),
                shape=(size.height, size.width, 3),
                dtype=np.uint8,
                tile=(side, side),
                subfiletype=0 if level == 0 else 1,
                metadata=None,
                software="slidesr",
                **_resolution(metadata, level),
                **compression.tiff_options,
                **first,
            )
    return file.getvalue()


def _description(plan: TilePlan, metadata: Metadata, layout: str) -> bytes:
    describe = plain_text if layout == "generic" else ome_xml
    return describe(plan.output, metadata).encode()


def _resolution(metadata: Metadata, level: int) -> dict[str, Any]:
    """The pixel size as resolution tags, in pixels per centimetre."""
    if metadata.mpp is None:
        return {}
    um_per_cm = 10_000
    mpp = metadata.mpp * 2**level
    return {"resolution": (um_per_cm / mpp.x, um_per_cm / mpp.y), "resolutionunit": "CENTIMETER"}


def _pages(tiff: tifffile.TiffFile, layout: str) -> Iterator[tifffile.TiffPage]:
    """The full directories of all levels, largest first."""
    if layout == "generic":
        for page in tiff.pages:
            yield page.aspage()
        return
    first = tiff.pages.first
    yield first
    for page in first.pages or ():
        yield page.aspage()


def _chain_copies(file: BinaryIO, first: int, directories: list[int]) -> None:
    """Appends copies of directories to the main chain, which ends with the one at `first`.

    A BigTIFF directory is a u64 count, 20 bytes an entry, and the u64 offset of the next one; large
    values stay where they are, so both copies point to the same tiles.
    """
    link = _link_of(file, first)
    for offset in directories:
        file.seek(offset)
        (count,) = struct.unpack("<Q", file.read(8))
        entries = file.read(20 * count)
        end = file.seek(0, os.SEEK_END)
        copy = end + end % 2  # directories start on even offsets
        file.write(b"\0" * (copy - end) + struct.pack("<Q", count) + entries + bytes(8))
        file.seek(link)
        file.write(struct.pack("<Q", copy))
        link = _link_of(file, copy)


def _link_of(file: BinaryIO, directory: int) -> int:
    """The position of a directory's offset of the next one."""
    file.seek(directory)
    (count,) = struct.unpack("<Q", file.read(8))
    return int(directory + 8 + 20 * count)
