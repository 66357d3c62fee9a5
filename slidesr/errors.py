"""The errors that slidesr raises on purpose; each message says what, where, and what to do."""

from __future__ import annotations

import errno


class SlidesrError(Exception):
    """The root: something failed while running; the same command may be tried again."""

    exit_code = 1


class BusyError(SlidesrError):
    """Another process is at the same work."""

    exit_code = 4


class StoppedError(SlidesrError):
    """The user stopped it; the message says how to go on."""

    exit_code = 130


class RefusedError(SlidesrError):
    """Refused before any work: bad input, a bad option, or an output that is in the way."""

    exit_code = 2


def explained(error: Exception) -> tuple[str, int]:
    """What to tell the user of any error, in one line, and the exit code.

    >>> explained(OSError(28, "No space left on device", "a.json"))
    ('a.json: No space left on device. Free some space and give the same command again.', 1)
    """
    match error:
        case SlidesrError():
            return str(error), error.exit_code
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            cure = " Free some space and give the same command again." if full else ""
            return f"{where}{error.strerror or error}.{cure}", 1
        case MemoryError():
            return f"not enough memory: {error} Close what else runs, and give it again.", 1
        case _:  # a fault of ours is still one line
            return f"a fault in slidesr: {type(error).__name__}: {error}", 1
