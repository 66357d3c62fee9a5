"""The fastest tile size on this machine: measured on a run's own tiles, and remembered.

Tiles leave no trace on a CPU, so that a run may try sizes on its own first blocks at no cost.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from slidesr.runtime.atomic_files import whole_file

_log = logging.getLogger(__name__)
_SMALLEST_PX = 256
_TRIES = 2  # of each size: the first pays for new memory


class Tuner:
    """Chooses among sides of square tiles, in source pixels, the one with the highest rate.

    `known` is side -> source pixels a second, of earlier runs.
    """

    def __init__(self, sides_px: Sequence[int], known: Mapping[int, float] | None = None) -> None:
        self._sides_px = sorted(sides_px, reverse=True)
        self._known = dict(known or {})
        self._tries = dict.fromkeys(self._sides_px, 0)
        self.rates: dict[int, float] = {}

    @classmethod
    def up_to(cls, side_px: int, known: Mapping[int, float] | None = None) -> Tuner:
        """A tuner for a side and its halves down to 256 px.

        >>> Tuner.up_to(1024).side_px
        1024
        """
        sides_px = [side_px]
        while sides_px[-1] // 2 >= _SMALLEST_PX and sides_px[-1] % 2 == 0:
            sides_px.append(sides_px[-1] // 2)
        return cls(sides_px, known)

    @property
    def side_px(self) -> int:
        """The side of the next tile: one not measured yet, else the fastest."""
        rates = self._known | self.rates
        for side_px in self._sides_px:
            if side_px not in self._known and self._tries[side_px] < _TRIES:
                return side_px
        return max(self._sides_px, key=lambda side_px: rates[side_px])

    def note(self, side_px: int, seconds: float) -> None:
        """Records how long a tile took; sides that the tuner does not offer are ignored."""
        if side_px in self._tries:
            self._tries[side_px] += 1
            self.rates[side_px] = max(self.rates.get(side_px, 0.0), side_px**2 / seconds)


def remembered(machine: str) -> dict[int, float]:
    """Remembered rates by side, for a machine and network."""
    try:
        rates = json.loads(cache_file().read_text())[machine]
        return {int(side_px): float(rate) for side_px, rate in rates.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember(machine: str, rates: Mapping[int, float]) -> None:
    """Remembers what a run has measured; if that fails, the next run measures again."""
    if not rates:
        return
    path = cache_file()
    try:
        everything = json.loads(path.read_text())
    except (OSError, ValueError):
        everything = {}
    everything = everything if isinstance(everything, dict) else {}
    everything[machine] = {str(s): rate for s, rate in (remembered(machine) | dict(rates)).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, path.with_name(f".{path.name}.{os.getpid()}")) as file:
            file.write(json.dumps(everything, indent=2).encode())
    except OSError as error:
        _log.debug("%s: %s", path, error)


def cache_file() -> Path:
    """Where rates are noted: in the user's cache folder, https://specifications.freedesktop.org/basedir-spec."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache) if Path(cache).is_absolute() else Path("~/.cache").expanduser()
    return folder / "slidesr" / "tiles.json"
