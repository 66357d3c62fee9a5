"""Names of the files beside an output, which fit however long the output's own name is.

.NAME.part, .NAME.part.state, .NAME.old    while it is written
NAME.trace.json                            of `upscale --profile`

Where the longest of them would not fit, NAME is shortened to its first characters and a hash. That
is the same each time, since a stopped run is found by these names.
"""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.runtime.paths import is_remote

_LONGEST_ENDING = ".part.state.new"
_USUAL_MOST_BYTES = 255
_SHOWN_CHARACTERS = 20  # at most 80 bytes
_HASH_DIGITS = 32


def hidden_beside(path: Path, ending: str) -> Path:
    """The hidden file beside `path` with a further ending, such as `.part`.

    >>> hidden_beside(Path("a/b.ome.tif"), ".part").as_posix()
    'a/.b.ome.tif.part'
    >>> len(hidden_beside(Path("a" * 255), ".part").name)
    59
    """
    return path.with_name(f".{_fitting(path)}{ending}")


def beside(path: Path, ending: str) -> Path:
    """The visible file beside `path` with a further ending, such as `.trace.json`."""
    return path.with_name(f"{_fitting(path)}{ending}")


def check_name(path: Path) -> None:
    """Raises RefusedError where the name is too long for the file system; takes any URL."""
    if is_remote(path):
        return
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            count = len(os.fsencode(path.name))
            raise RefusedError(
                f"{path}: the name is too long for this file system ({count} bytes of"
                f" at most {_most_bytes(path.parent)}). Give a shorter one."
            ) from error


def _fitting(path: Path) -> str:
    name = path.name
    if len(os.fsencode(f".{name}{_LONGEST_ENDING}")) <= _most_bytes(path.parent):
        return name
    digest = sha256(os.fsencode(name)).hexdigest()[:_HASH_DIGITS]
    return f"{name[:_SHOWN_CHARACTERS]}.{digest}"


def _most_bytes(folder: Path) -> int:
    """The length of the longest name in a folder."""
    try:
        most = os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _USUAL_MOST_BYTES
    return most if most > 0 else _USUAL_MOST_BYTES
