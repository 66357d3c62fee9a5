"""Reads files saved by torch as data; code in them is never executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from slidesr.errors import RefusedError

_UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, UnpicklingError, RuntimeError),
    *(ValueError, TypeError, LookupError, AttributeError),
)


def load_data(path: Path) -> Any:
    """Loads what `torch.save` wrote, on the CPU; use it inside `refusing`."""
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def refusing(message: str, *more: type[Exception]) -> Iterator[None]:
    """Turns the errors that a broken or foreign file causes into a RefusedError with `message`.

    torch has no common class for them; `more` adds those of another library.
    """
    try:
        yield
    except (*_UNREADABLE, *more) as error:
        raise RefusedError(message) from error
