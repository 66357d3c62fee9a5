"""A pyramidal BigTIFF that OpenSlide, Bio-Formats and the others open with all its levels.

tifffile writes every directory (IFD) first, complete but for the places of the tiles; encoded tiles
are appended as they come; at the end the places are filled in. So the file is written once, front
to back, and nothing but the places of its tiles is held in memory (16 bytes a tile).

    header | IFD 0 | SubIFD 1 .. n | tile, tile, tile, ... | copies of SubIFD 1 .. n
             |  |_____^                                      ^
             |_______________________________________________|   (hybrid layout)
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from slidesr.closing import Closing
from slidesr.durable import sync_folder
from slidesr.errors import BusyError, RefusedError
from slidesr.output.checkpoint import Checkpoint, Pause, crc_of, discard
from slidesr.output.compression import Compression
from slidesr.output.metadata import Metadata, ome_xml, plain_text
from slidesr.output.pyramid import EncodedTile
from slidesr.plan import Plan

_log = logging.getLogger(__name__)

LAYOUTS = ("hybrid", "ome", "generic")
"""`hybrid`: the levels as SubIFDs, and again as copies of these small directories in the main
chain, for readers of either kind. `ome`: SubIFDs alone, the letter of OME-TIFF. `generic`: a plain
chain of directories without OME-XML."""


class OmeTiffWriter(Closing):
    """Writes beside `path` under a hidden name, and publishes whole or not at all.

    A context manager: `append` tiles in any order, then `finish`. `glass` is the encoded tile that
    all plain glass points at. Leaving without `finish` removes the part, unless it has a
    `checkpoint`: then a writer with the same `identity` goes on from there, and `resumed` is it.

    Raises RefusedError where the output exists and may not be replaced, cannot be written, or was
    begun under another identity (with `overwrite` that is dropped); BusyError where another process
    writes it.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        metadata: Metadata,
        compression: Compression,
        *,
        glass: bytes,
        layout: str = "hybrid",
        overwrite: bool = False,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
        self._path, self._overwrite, self._layout = path, overwrite, layout
        self._levels = [_TilePlaces(plan, level) for level in range(len(plan.levels))]
        self._glass_tile, self._glass_place = glass, (0, 0)
        if path.exists() and not overwrite:
            raise RefusedError(f"{path}: exists already. Replace it with --overwrite.")
        self._part, self._state = _part_of(path), _state_of(path)
        self._identity = dict(identity or {})
        self._file = _own_file(self._part, path)
        with ExitStack() as undo:
            undo.callback(self.close)
            skeleton = _skeleton(plan, metadata, compression, layout)
            self.resumed = self._resumed(len(skeleton))
            self._file.seek(0)
            self._file.write(skeleton)
            self._begin(len(skeleton))
            undo.pop_all()
        self._pause = Pause()

    def close(self) -> None:
        """Removes what is not published and has no checkpoint."""
        if not self._state.exists():
            self._part.unlink(missing_ok=True)  # while it is still locked
        self._file.close()

    def _resumed(self, start: int) -> Checkpoint | None:
        """The checkpoint to go on from; one of no use is removed."""
        state = Checkpoint.read(self._state)
        if state is not None and not self._overwrite:
            names = self._identity.keys() | state.identity.keys()
            other = [n for n in names if self._identity.get(n) != state.identity.get(n)]
            if other:
                raise RefusedError(
                    f"{self._path}: a run was stopped here with another {', '.join(sorted(other))}."
                    " Give the same to go on with it, or begin anew with --overwrite."
                )
        if state is not None and state.identity == self._identity:
            if crc_of(self._file, start, state.end) == state.crc:
                return state
            _log.warning("%s: what a stopped run left is damaged; starting over", self._path)
        discard(self._state)
        return None

    def _begin(self, start: int) -> None:
        self._end, self._crc = start, 0
        if self.resumed is not None:
            self._end, self._crc = self.resumed.end, self.resumed.crc
            arrays = self.resumed.arrays
            offset, count = map(int, arrays["glass"])
            self._glass_place = offset, count
            for level, places in enumerate(self._levels):
                places.restore(arrays[f"places{level}"])
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def checkpoint(
        self, blocks: int, arrays: Callable[[], Mapping[str, npt.NDArray[np.generic]]]
    ) -> None:
        """Makes what was appended outlive a kill, so often that it costs a hundredth of the time.

        `blocks` and `arrays` are what `resumed` is to tell when the run goes on.
        """
        if not self._pause.is_over:
            return
        with self._pause.measured():
            self._file.flush()
            os.fsync(self._file.fileno())
            places = {f"places{level}": each.array for level, each in enumerate(self._levels)}
            glass = {"glass": np.array(self._glass_place, np.int64)}
            kept = {**arrays(), **places, **glass}
            Checkpoint(self._identity, blocks, self._end, self._crc, kept).save(self._state)

    def append(self, tiles: Iterable[EncodedTile]) -> None:
        """Appends encoded tiles in the order given; the glass tile once, where first needed."""
        for tile in tiles:
            if tile.data is not None:
                place = self._store(tile.data)
            elif self._glass_place == (0, 0):
                place = self._glass_place = self._store(self._glass_tile)
            else:
                place = self._glass_place
            self._levels[tile.level].set(tile.row, tile.column, place)

    def finish(self) -> int:
        """Fills in the places, syncs and publishes the file; its size in bytes."""
        for level in self._levels:
            level.check()
        self._file.seek(0)  # where tifffile takes the file to begin
        with tifffile.TiffFile(self._file, is_ome=False) as tiff:
            pages = list(_pages(tiff, self._layout))
            for page, level in zip(pages, self._levels, strict=True):
                page.tags["TileOffsets"].overwrite(level.offsets, erase=False)
                page.tags["TileByteCounts"].overwrite(level.counts, erase=False)
            sub_offsets = [page.offset for page in pages[1:]]
            end_of_chain = pages[0].offset
        if self._layout == "hybrid":
            _chain_copies(self._file, end_of_chain, sub_offsets)
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.seek(0, os.SEEK_END)
        self._publish()
        return size

    def _store(self, data: bytes) -> tuple[int, int]:
        offset = self._end
        self._file.write(data)
        self._end += len(data)
        self._crc = zlib.crc32(data, self._crc)
        return offset, len(data)

    def _publish(self) -> None:
        if self._overwrite:
            self._part.replace(self._path)
        else:
            try:
                self._publish_new()
            except FileExistsError as error:
                raise RefusedError(
                    f"{self._path}: appeared while running. Replace it with --overwrite."
                ) from error
        sync_folder(self._path.parent)
        discard(self._state)

    def _publish_new(self) -> None:
        """Never takes the place of what came there in the meantime: FileExistsError."""
        try:
            self._path.hardlink_to(self._part)
        except FileExistsError:
            raise
        except OSError:  # no hard links on this file system
            self._path.touch(exist_ok=False)
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)  # another process may have swept it


def sweep(path: Path) -> None:
    """Removes what a run left that was killed just after it published."""
    part = _part_of(path)
    if path.exists() and (not part.exists() or part.samefile(path)):
        discard(_state_of(path))
        part.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _state_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.state")


def _own_file(part: Path, path: Path) -> BinaryIO:
    """Opens the part locked; a part that a killed run left behind is taken over."""
    try:
        part.touch()
        file = part.open("r+b")
    except OSError as error:
        raise RefusedError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.fstat(file.fileno()).st_ino == part.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:  # locked, or published or removed between opening and locking
        file.close()
        raise BusyError(f"{path}: another process is writing it. Wait for it, or stop it.")
    return file


class _TilePlaces:
    """Where each tile of one level lies in the file; row by row, as TIFF wants it."""

    def __init__(self, plan: Plan, level: int) -> None:
        size, side = plan.levels[level], plan.output_tile_px
        shape = (-(-size.height // side), -(-size.width // side))
        self._level = level
        self._offsets: npt.NDArray[np.uint64] = np.zeros(shape, np.uint64)
        self._counts: npt.NDArray[np.uint64] = np.zeros(shape, np.uint64)

    def set(self, row: int, column: int, place: tuple[int, int]) -> None:
        self._offsets[row, column], self._counts[row, column] = place

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
        """Sparse tiles read black or fail, by the reader; so there must be none."""
        missing = np.argwhere(self._offsets == 0)
        if len(missing):
            row, column = missing[0]
            raise ValueError(f"level {self._level}: no tile at row {row}, column {column}")


def _skeleton(plan: Plan, metadata: Metadata, compression: Compression, layout: str) -> bytes:
    """Every directory of the file, with room for the places of its tiles."""
    file = BytesIO()
    sub_levels = 0 if layout == "generic" else len(plan.levels) - 1
    side = plan.output_tile_px
    with tifffile.TiffWriter(file, bigtiff=True, byteorder="<") as writer:
        for level, size in enumerate(plan.levels):
            first: dict[str, Any] = {}
            if level == 0:
                first = {"subifds": sub_levels, "iccprofile": metadata.icc_profile}
                describe = plain_text if layout == "generic" else ome_xml
                first["description"] = describe(plan.output, metadata).encode()
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


def _resolution(metadata: Metadata, level: int) -> dict[str, Any]:
    """The pixel size as the resolution tags say it: pixels a centimetre."""
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
    """Appends copies of directories to the main chain that ends with the directory at `first`.

    A BigTIFF directory is a u64 count, 20 bytes an entry, and the u64 offset of the next one; large
    values stay where they are, so both copies point at the same tiles.
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
    """Where a directory keeps the offset of the next one."""
    file.seek(directory)
    (count,) = struct.unpack("<Q", file.read(8))
    return int(directory + 8 + 20 * count)
