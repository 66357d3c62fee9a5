"""Text of files and of other libraries, made fit to be shown."""

from __future__ import annotations

_MOST_CHARACTERS = 4096  # as long as a path may be


def printable(text: str) -> str:
    r"""Foreign text on one line of at most 4096 characters; control characters are shown escaped.

    >>> printable("bad\x1b[31m tag\r\n 7")
    'bad\\x1b[31m tag\\r\\n 7'
    """
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
