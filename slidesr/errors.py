"""Text of files and of other libraries, made fit to be shown."""

from __future__ import annotations

import errno

_MOST_CHARACTERS = 4096  # as long as a path may be


def printable(text: str) -> str:
    r"""Foreign text on one line of at most 4096 characters; control characters are shown escaped.

    >>> printable("bad\x1b[31m tag\r\n 7")
    'bad\\x1b[31m tag\\r\\n 7'
    """
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


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
