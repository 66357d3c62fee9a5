"""Files that appear whole or not at all, even after a power loss; locks on folders."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from slidesr.errors import BusyError
from slidesr.runtime.names import hidden_beside


@contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[BinaryIO]:
    """Opens a temporary file `part` that is synced and renamed to `path` at the end.

    After an error in the body `path` is unchanged and the temporary file stays.
    """
    part = part or hidden_beside(path, ".part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def sync_folder(path: Path) -> None:
    """Makes renames and new files in a folder survive a power loss."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def exchange(a: Path, b: Path) -> None:
    """Swaps the names of two files or folders of one file system, atomically on Linux.

    Elsewhere there is a moment in which `b` is called `.b.old`.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, of fcntl.h and renameat2(2)
    if rename and rename(here, os.fsencode(a), here, os.fsencode(b), swap) == 0:
        return
    aside = hidden_beside(b, ".old")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Holds the lock of `locked_folder` in the body; raises BusyError as it does."""
    lock = locked_folder(path)
    try:
        yield
    finally:
        os.close(lock)


def locked_folder(path: Path) -> int:
    """A descriptor of the folder that holds an exclusive lock until it is closed.

    Raises BusyError where another process holds the lock.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise BusyError(f"{path}: another process is writing it. Wait for it.") from error
    return handle
