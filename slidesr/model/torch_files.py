"""Files that torch saved, read as data: nothing in them is ever executed."""

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
    """What `torch.save` wrote, on the CPU; for use inside `refusing`."""
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def refusing(message: str, *more: type[Exception]) -> Iterator[None]:
    """RefusedError of this message for whatever a broken or foreign file leads to inside.

    torch has no one class for that; `more` are those of another library.
    """
    try:
        yield
    except (*_UNREADABLE, *more) as error:
        raise RefusedError(message) from error
