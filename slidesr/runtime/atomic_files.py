"""Files that are whole or absent, even after a loss of power; folders that one process writes."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from slidesr.errors import BusyError


@contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` at the end; until then it is `part`.

    After an error inside, `path` is what it was and the part stays.
    """
    part = part or path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlive a loss of power."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def exchange(a: Path, b: Path) -> None:
    """Lets two files or folders of one file system change their names, at once where it can.

    Elsewhere than on Linux there is an instant in which `b` has no name but `b.old`.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, at_once = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, of fcntl.h and renameat2(2)
    if rename and rename(here, os.fsencode(a), here, os.fsencode(b), at_once) == 0:
        return
    aside = b.with_name(f".{b.name}.old")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)


def locked_folder(path: Path) -> int:
    """A handle of the folder that no other process can lock until it is closed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise BusyError(f"{path}: another process is writing it. Wait for it.") from error
    return handle
