"""When a training run slows down, saves and ends: the same in all of its processes."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from slidesr.errors import RefusedError, StoppedError
from slidesr.train.checkpoint import Reached
from slidesr.train.distributed import World
from slidesr.train.recipe import OptimizerRecipe, cooldown_begin

_log = logging.getLogger(__name__)

_SHARED_EVERY = 16  # steps after which several processes agree; it costs a transfer


class Paced(Protocol):
    """A recipe, of a generator or of an encoder."""

    @property
    def name(self) -> str: ...

    @property
    def patches(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def optimizer(self) -> OptimizerRecipe: ...


@dataclass(frozen=True)
class Control:
    """How a run is limited in time, and what signals or other threads ask of it."""

    minutes: float = math.inf  # of training, in this call, the cooldown included
    save_every_s: float = 300.0
    stop: Event = field(default_factory=Event)  # save after this step, and stop
    finish: Event = field(default_factory=Event)  # begin the cooldown now, and end with it


class Pace:
    """Counts a run's patches and time, and tells what is due after each step.

    The run ends after `end` patches. That is the recipe's number, or what fits into the minutes, or
    what the cooldown takes from the moment in which the run is asked to finish.
    """

    def __init__(self, recipe: Paced, control: Control, world: World) -> None:
        self.patches = 0
        self.seconds = 0.0  # training time of the whole run, up to the last step
        self.cooling = False
        self.stops = False  # asked to stop
        self.saves = False  # it is time to save
        self.ends = False
        self._recipe, self._control, self._world = recipe, control, world
        self.end = math.inf if math.isfinite(control.minutes) else float(recipe.patches)
        self._finishes = False  # the end is fixed, because the run was asked to finish
        self._begun = self._saved = time.monotonic()
        self._first, self._earlier_s, self._steps = 0, 0.0, 0

    @property
    def patches_per_s(self) -> float:
        """Over this call, validation included."""
        return (self.patches - self._first) / max(1e-9, time.monotonic() - self._begun)

    @property
    def reached(self) -> Reached:
        return Reached(self.patches, self.seconds, self.end, self.cooling)

    def fits(self, reached: Reached) -> bool:
        """Whether a run that goes on from there is as one that was never cut or extended."""
        if self._control.finish.is_set() or (reached.cooling and reached.end == self.end):
            return True
        last = reached.patches - self._recipe.batch  # seen before the last step
        at_full_rate = last <= cooldown_begin(self._recipe.optimizer, self.end)
        return not reached.cooling and at_full_rate and last < self.end

    def resume(self, reached: Reached) -> None:
        """Goes on from there. Raises RefusedError if it cannot be finished now, as was asked."""
        self.patches, self.cooling = reached.patches, reached.cooling
        self._first, self._earlier_s = reached.patches, reached.seconds
        self.seconds = reached.seconds
        self._begun = self._saved = time.monotonic()
        if self._control.finish.is_set() and reached.patches:
            self.end = reached.end
            if not self._finish():
                raise RefusedError(self._falls_throughout)
        self.ends = self.patches >= self.end

    @property
    def begins_cooldown(self) -> bool:
        """Whether the learning rate begins to fall with the coming step; then set `cooling`."""
        begin = cooldown_begin(self._recipe.optimizer, self.end)
        falls = self.patches > begin or self._recipe.optimizer.cooldown == 1
        return falls and not self.cooling

    def count(self) -> None:
        """Counts a step, and looks whether anything is due."""
        self.patches += self._recipe.batch
        self.seconds = self._earlier_s + time.monotonic() - self._begun
        self._steps += 1
        alone = self._world.size == 1
        if alone or self._steps % _SHARED_EVERY == 0 or self.patches >= self.end:
            self._look()

    def passed(self, every: float) -> bool:
        """Whether the last step reached a multiple of so many patches."""
        before = self.patches - self._recipe.batch
        return before // every != self.patches // every

    def stop_if_asked(self) -> None:
        """Raises StoppedError if the run was asked to stop before its end; save it first."""
        if self.stops and not self.ends:
            raise StoppedError(
                f"stopped after {self.patches:,} patches; --resume goes on from there"
            )

    def saved(self) -> None:
        self._saved, self.saves = time.monotonic(), False

    def _look(self) -> None:
        control, now = self._control, time.monotonic()
        left_s = 60 * control.minutes - (now - self._begun)
        asked = self._world.largest(
            [
                control.stop.is_set(),
                control.finish.is_set() and not self._finishes,
                now - self._saved >= control.save_every_s,
                left_s <= 0,
                self.patches_per_s,
                left_s if math.isfinite(left_s) else 0.0,
            ]
        )
        self.stops, finishes, self.saves, is_over = map(bool, asked[:4])
        if math.isfinite(control.minutes) and not self._finishes:
            rate, left_s = asked[4:]
            self.end = self.patches + rate * max(0.0, left_s)
        if finishes and not self._finish():
            control.finish.clear()
            _log.warning("%s", self._falls_throughout)
        self.ends = is_over or self.patches >= self.end

    def _finish(self) -> bool:
        """Fixes the end: that of the cooldown under way, or of one that begins now, if one can."""
        share, batch = self._recipe.optimizer.cooldown, self._recipe.batch
        if share == 1 and self.patches < self.end:
            return False
        end = self.end if self.cooling else self.patches / (1 - share)
        self.end, self._finishes = float(math.ceil(end / batch) * batch), True
        return True

    @property
    def _falls_throughout(self) -> str:
        return (
            f"{self._recipe.name}: its learning rate falls from the first patch to the last, so it"
            " cannot be finished early. --export writes its weights as they are."
        )
