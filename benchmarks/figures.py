"""Figures of docs/, the same bytes each time, and the logs of training runs that they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, Any]:
    """A figure of `size` in inches, and its panels as an array [rows, columns]."""
    mpl.rcParams |= {"svg.hashsalt": "slidesr", "svg.fonttype": "none", "font.size": 9}
    made: tuple[Figure, Any] = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **shared
    )
    return made


def save_figure(figure: Figure, path: Path) -> None:
    """Writes an SVG without a date, and prints its path."""
    figure.savefig(path, metadata={"Date": None})
    print(path)


def logged(run: Path) -> dict[str, dict[int, float]]:
    """The curves in the TensorBoard log of a run by name, each a value by patches."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }
