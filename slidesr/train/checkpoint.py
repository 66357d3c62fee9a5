"""The checkpoint of a run: one file, written atomically and read without executing code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch

from slidesr.errors import RefusedError
from slidesr.model.torch_files import load_data, refusing
from slidesr.runtime.atomic_files import sync_folder, whole_file

_NAME = "checkpoint.pt"


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class TrainingCheckpoint:
    """Everything needed to resume a run: the state of its parts and its progress.

    There is no random state: what a step draws is a function of the seed and the patches seen.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any], parts: dict[str, Stateful]) -> None:
        self._path, self._recipe = folder / _NAME, json.dumps(recipe, sort_keys=True)
        self._parts = parts

    def load(self) -> tuple[int, float]:
        """Restores the parts in place; returns patches seen and seconds spent, 0 without a file."""
        if not self._path.exists():
            return 0, 0.0
        broken = f"{self._path}: not a complete slidesr checkpoint. Delete it to start over."
        with refusing(broken):
            saved: dict[str, Any] = load_data(self._path)
            if saved["recipe"] == self._recipe:
                return self._restore(saved)
        raise RefusedError(f"{self._path}: written with another recipe. Choose another --output.")

    def save(self, patches: int, seconds: float) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"recipe": self._recipe, "patches": patches, "seconds": seconds}
        with whole_file(self._path, self._path.with_suffix(".part")) as file:
            torch.save(state, file)
        sync_folder(self._path.parent)

    def _restore(self, saved: dict[str, Any]) -> tuple[int, float]:
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        return saved["patches"], saved["seconds"]


def refuse_mixing_runs(folder: Path) -> None:
    """Raises RefusedError if `folder` holds a run already."""
    if (folder / _NAME).exists():
        raise RefusedError(
            f"{folder}: holds a run already. Give --resume, or choose another --output."
        )
