"""The errors that users see: each becomes one line and an exit code."""

from __future__ import annotations

import errno

_MOST_CHARACTERS = 4096  # as long as a path may be


class SlidesrError(Exception):
    """The root of all errors: a run failed, and the same command may be tried again."""

    exit_code = 1


class BusyError(SlidesrError):
    """Another process is writing the same output."""

    exit_code = 4


class StoppedError(SlidesrError):
    """The user stopped the run; the message says how to resume."""

    exit_code = 130


class RefusedError(SlidesrError):
    """Refused before any work: bad input, a bad option, or an output that exists."""

    exit_code = 2


def explained(error: Exception) -> tuple[str, int]:
    """One line for the user about any error, and the exit code.

    >>> explained(OSError(28, "No space left on device", "a.json"))
    ('a.json: No space left on device. Free some space and give the same command again.', 1)
    """
    match error:
        case SlidesrError():
            return str(error), error.exit_code
        case OSError(errno=errno.ENAMETOOLONG):
            return (
                f"{error.filename}: {error.strerror}. Give a shorter one.",
                RefusedError.exit_code,
            )
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            cure = " Free some space and give the same command again." if full else ""
            return f"{where}{error.strerror or error}.{cure}", 1
        case MemoryError():
            return f"not enough memory: {error} Close other programs and try again.", 1
        case _:  # a bug of ours is still one line
            return f"a bug in slidesr: {type(error).__name__}: {error}", 1


def printable(text: str) -> str:
    r"""Text from a file or another library on one line of at most 4096 characters, escaped.

    >>> printable("bad\x1b[31m tag\r\n 7")
    'bad\\x1b[31m tag\\r\\n 7'
    """
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def reason(error: Exception) -> str:
    """An error's message on one printable line of at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(each if each.isprintable() else "?" for each in text)[:120]
