"""The checkpoint from which a stopped run resumes: one file beside the staging file.

.NAME.part         the staging file: directories with empty tile offsets, then tiles in order
.NAME.part.state   the checkpoint: progress, tile offsets, open tiles of the upper pyramid

The staging file is synced before the checkpoint is renamed into place, so that a checkpoint never
refers to bytes that are not there. It is an npz, whose members carry CRCs; nothing is pickled.
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
    """The state of an output after the first `blocks` blocks of its plan."""

    identity: dict[str, str]  # what determines the output's bytes: name -> hash
    blocks: int
    notes: dict[str, str]  # provenance that the run has added
    arrays: dict[
        str, npt.NDArray[np.generic]
    ]  # tile offsets or fingerprints, and the open upper tiles

    def save(self, path: Path) -> None:
        """Replaces the checkpoint at `path` atomically, even if killed or without power."""
        new = _new(path)
        try:
            with whole_file(path, new) as file:
                self.write(file)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)

    def write(self, file: BinaryIO) -> None:
        fields = [self.identity, self.blocks, self.notes]
        header = np.frombuffer(json.dumps(fields).encode(), np.uint8)
        np.savez(file, allow_pickle=False, header=header, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> OutputCheckpoint | None:
        """The checkpoint at `path`, or None if it is absent or damaged."""
        try:
            with path.open("rb") as file:
                return cls.read(file)
        except OSError:
            return None

    @classmethod
    def read(cls, file: BinaryIO) -> OutputCheckpoint | None:
        """The checkpoint in a file, or None if it is damaged."""
        try:
            with np.load(file, allow_pickle=False) as npz:
                arrays = {name: npz[name] for name in npz.files}
            identity, blocks, notes = json.loads(arrays.pop("header").tobytes())
            return cls(dict(identity), int(blocks), dict(notes), arrays)
        except _DAMAGED:
            return None


def discard(path: Path) -> None:
    """Removes the checkpoint at `path`, and the remains of a newer one after a kill."""
    _new(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def crc_of(file: BinaryIO, start: int, end: int) -> int | None:
    """The CRC-32 of bytes `start` to `end` of a file, or None if the file is shorter."""
    file.seek(start)
    crc, left = 0, end - start
    while left > 0:
        chunk = file.read(min(_CHUNK_BYTES, left))
        if not chunk:
            return None
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc


class CheckpointTimer:
    """Decides when the next checkpoint is due: after 100 times the duration of the last one.

    At the latest after 55 s, so that a resumed run repeats less than a minute.
    """

    _MIN_S, _MAX_S, _FACTOR = 2.0, 55.0, 100

    def __init__(self) -> None:
        self._due = time.monotonic() + self._MIN_S

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    @contextmanager
    def measured(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        ended = time.monotonic()
        wait_s = max(self._MIN_S, self._FACTOR * (ended - started))
        self._due = ended + min(self._MAX_S, wait_s)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
