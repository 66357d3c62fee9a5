"""What a stopped run needs to go on, in one file beside the unfinished output.

.NAME.part         the output so far: its directories without places, then tiles in their order
.NAME.part.state   how far it is, where its tiles lie, and the open tiles of the upper pyramid

The part is synced first and the state takes its name after that, so that a state never tells of
bytes that are not there. It is an npz, whose members carry CRCs; nothing in it is pickled.
"""

from __future__ import annotations

import json
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from slidesr.runtime.atomic_files import sync_folder, whole_file

_CHUNK_BYTES = 1 << 22
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class OutputCheckpoint:
    """A moment of a run, after `blocks` blocks of its plan."""

    identity: dict[str, str]  # what decides the output's bytes: its name -> its hash
    blocks: int
    notes: dict[str, str]  # what the run has learnt and the output is to tell
    arrays: dict[str, npt.NDArray[np.generic]]  # where tiles lie, and the open upper tiles

    def save(self, path: Path) -> None:
        """Replaces the state at `path`; a kill or a loss of power leaves the old or the new one."""
        new = _new(path)
        try:
            with whole_file(path, new) as file:
                self.write(file)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)

    def write(self, file: BinaryIO) -> None:
        told = [self.identity, self.blocks, self.notes]
        header = np.frombuffer(json.dumps(told).encode(), np.uint8)
        np.savez(file, allow_pickle=False, header=header, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> OutputCheckpoint | None:
        """What `save` wrote, or None where it is absent or damaged."""
        try:
            with path.open("rb") as file:
                return cls.read(file)
        except OSError:
            return None

    @classmethod
    def read(cls, file: BinaryIO) -> OutputCheckpoint | None:
        """What `write` wrote, or None where it is damaged."""
        try:
            with np.load(file, allow_pickle=False) as npz:
                arrays = {name: npz[name] for name in npz.files}
            identity, blocks, notes = json.loads(arrays.pop("header").tobytes())
            return cls(dict(identity), int(blocks), dict(notes), arrays)
        except _DAMAGED:
            return None


def discard(path: Path) -> None:
    """Removes the state at `path`, and what a kill left of a newer one."""
    _new(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def crc_of(file: BinaryIO, start: int, end: int) -> int | None:
    """CRC-32 of a part of a file, or None where the file is shorter."""
    file.seek(start)
    crc, left = 0, end - start
    while left > 0:
        chunk = file.read(min(_CHUNK_BYTES, left))
        if not chunk:
            return None
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc


class Pause:
    """Tells when the next checkpoint is due: after a hundred times as long as the last one took.

    But within a minute, so that no more than that is ever done again.
    """

    _LEAST_S, _MOST_S, _TIMES = 2.0, 55.0, 100

    def __init__(self) -> None:
        self._due = time.monotonic() + self._LEAST_S

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._due

    @contextmanager
    def measured(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        ended = time.monotonic()
        wait_s = max(self._LEAST_S, self._TIMES * (ended - started))
        self._due = ended + min(self._MOST_S, wait_s)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
