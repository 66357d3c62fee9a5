"""Training checkpoints: atomically written files, loaded as data without running code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from slidesr.errors import RefusedError
from slidesr.model.torch_files import load_data, refusing
from slidesr.runtime.atomic_files import sync_folder, whole_file

_NEWEST, _KEPT = "checkpoint.pt", "before-cooldown.pt"
_MAY_CHANGE = ("patches", "validate_every")  # of a recipe, while its run goes on


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class Reached:
    """How far a run has come: patches seen, training time, and its learning rate's state."""

    patches: int = 0
    seconds: float = 0.0
    end: float = 0.0  # patches of the whole run
    cooling: bool = False  # the learning rate has begun to fall towards `end`


class TrainingCheckpoint:
    """All that is needed to resume a run: the state of its parts and how far it has come.

    No random state is stored: what a step draws depends only on the seed and the patches seen.
    The state before the cooldown is kept in a second file, from which a longer run goes on as if
    the cooldown had not been.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any], parts: dict[str, Stateful]) -> None:
        fixed = {key: value for key, value in recipe.items() if key not in _MAY_CHANGE}
        self._folder, self._recipe = folder, json.dumps(fixed, sort_keys=True)
        self._parts = parts

    def load(self, fits: Callable[[Reached], bool]) -> tuple[Reached, str]:
        """Restores the newest state that fits; returns how far it is, and the header with it.

        Nothing is restored without a file. Raises RefusedError if a file is damaged or belongs to a
        different recipe, or if no state fits.
        """
        newest: Reached | None = None
        for name in (_NEWEST, _KEPT):
            path = self._folder / name
            saved = _read(path)
            if saved is None:
                break
            if saved["recipe"] != self._recipe:
                raise RefusedError(
                    f"{path}: written by a different recipe. Choose another --output."
                )
            reached = Reached(**saved["reached"])
            if fits(reached):
                return self._restore(saved, path)
            newest = newest or reached
        if newest is None:
            return Reached(), ""
        raise RefusedError(_does_not_fit(self._folder, newest))

    def save(self, reached: Reached, header: str = "") -> None:
        """Writes the state and the header that its weights would have, as JSON."""
        self._folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"recipe": self._recipe, "reached": asdict(reached), "header": header}
        path = self._folder / _NEWEST
        with whole_file(path, path.with_suffix(".part")) as file:
            torch.save(state, file)
        sync_folder(self._folder)

    def keep(self) -> None:
        """Keeps the newest file as the state before the cooldown."""
        newest, kept = self._folder / _NEWEST, self._folder / _KEPT
        with newest.open("rb") as saved, whole_file(kept, kept.with_suffix(".part")) as file:
            shutil.copyfileobj(saved, file)
        sync_folder(self._folder)

    def _restore(self, saved: dict[str, Any], path: Path) -> tuple[Reached, str]:
        with refusing(_broken(path)):
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])
        return Reached(**saved["reached"]), saved["header"]


def reached_in(folder: Path) -> Reached | None:
    """How far the run in a folder has come; None if there is none."""
    saved = _read(folder / _NEWEST)
    return Reached(**saved["reached"]) if saved else None


def averaged_weights(path: Path) -> tuple[str, dict[str, Any]]:
    """Reads the header in a generator's checkpoint, and the moving average of its weights.

    Raises RefusedError if it is no checkpoint of a generator.
    """
    saved = _read(path)
    if saved is None or not saved["header"]:
        raise RefusedError(f"{path}: not a checkpoint of a generator")
    with refusing(_broken(path)):
        average = {name.partition(".")[2]: value for name, value in saved["average"].items()}
        return saved["header"], {name: value for name, value in average.items() if name}


def refuse_mixing_runs(folder: Path) -> None:
    """Raises RefusedError if the folder already contains a run."""
    if (folder / _NEWEST).exists():
        raise RefusedError(
            f"{folder}: contains a run. Use --resume to continue it, or choose another --output."
        )


def _read(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint and checks its own fields; None if there is no such file."""
    if not path.exists():
        return None
    with refusing(_broken(path)):
        saved: dict[str, Any] = load_data(path)
        Reached(**saved["reached"])
        _ = saved["recipe"] + saved["header"]
        return saved


def _broken(path: Path) -> str:
    return f"{path}: not a complete slidesr checkpoint. Delete it to start over."


def _does_not_fit(folder: Path, newest: Reached) -> str:
    if newest.cooling:
        return (
            f"{folder}: its learning rate has begun to fall towards {newest.end:,.0f} patches, so"
            " it can only be resumed up to there."
        )
    return (
        f"{folder}: has seen {newest.patches:,} patches at its full learning rate, too many for a"
        " run of that length. Give more --patches, or end it with --finish-now."
    )
