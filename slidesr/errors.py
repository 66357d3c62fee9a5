"""The errors that slidesr raises on purpose; each message says what, where, and what to do."""

from __future__ import annotations


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
