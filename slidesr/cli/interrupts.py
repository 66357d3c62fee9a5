"""What signals do to a command: they stop it, at once or where it can be resumed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from slidesr.cli.show import console, failure, line

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []  # signals that asked to stop


def install() -> None:
    """Lets a signal interrupt the work; a second one ends the process at once.

    So does the first during an import: a library that is being loaded may swallow the exception, or
    abort because of it. A process that is killed loses nothing.
    """
    for number in _STOPPING:
        signal.signal(number, _interrupt)


def exit_code() -> int:
    """The exit code after a signal that asked to stop; 0 if there was none."""
    return 128 + _received[-1] if _received else 0


@contextmanager
def asking(
    *, stop: Callable[[], None], finish: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Calls `stop` on the first signal instead of interrupting, and `finish` on SIGUSR1.

    A second signal ends the process at once. Handlers are restored at the end.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        _let_the_next_end_it(number)
        line("stopping after this step; press Ctrl-C again to stop at once", "dim")
        stop()

    if current_thread() is not main_thread():  # no other may set handlers
        yield
        return
    handlers = dict.fromkeys(_STOPPING, ask)
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = lambda number, frame: finish()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _let_the_next_end_it(number)
    if _is_importing(frame):
        console.show_cursor()
        failure("stopped")
        sys.stderr.flush()
        os._exit(exit_code())
    raise KeyboardInterrupt


def _let_the_next_end_it(number: int) -> None:
    for each in _STOPPING:
        signal.signal(each, signal.SIG_DFL)
    _received.append(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
