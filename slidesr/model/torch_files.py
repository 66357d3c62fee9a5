"""Reads files saved by torch as data; code in them is never executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from slidesr.errors import RefusedError

_UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, UnpicklingError, RuntimeError),
    *(ValueError, TypeError, LookupError, AttributeError, SafetensorError),
)


def load_data(path: Path) -> Any:
    """Loads what `torch.save` wrote, on the CPU; use it inside `refusing`."""
    return torch.load(path, map_location="cpu", weights_only=True)


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Loads a state dict from a safetensors file or what `torch.save` wrote; inside `refusing`."""
    state = load_file(path) if path.suffix == ".safetensors" else load_data(path)
    return dict(state.items())


@contextmanager
def refusing(message: str, *more: type[Exception]) -> Iterator[None]:
    """Turns the errors that a broken or foreign file causes into a RefusedError with `message`.

    torch has no common class for them; `more` adds those of another library.
    """
    try:
        yield
    except (*_UNREADABLE, *more) as error:
        raise RefusedError(message) from error
