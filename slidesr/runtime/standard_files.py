"""The standard files of a process, which may be closed at its start: `slidesr info a.tif 2>&-`."""

from __future__ import annotations

import os
import sys

_LAST = 2  # stdin, stdout and stderr are 0, 1 and 2


def open_standard_files() -> None:
    """Opens /dev/null in place of each that is closed.

    Otherwise the next file to be opened gets its number: a slide that is being written, for
    example, into which a C library would then print its messages.
    """
    number = 0
    while number <= _LAST:
        number = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if number <= _LAST:
            os.set_inheritable(number, True)
    os.close(number)
    # Python has None where the file was closed.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
