"""Times rows against each other in one process, in alternating order.

Since the load of a shared machine varies, ratios are computed within a round and reported as median
and range over the rounds. Rounds in which the threads did not get their cores, according to CPU
time over wall time, are discarded.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Run:
    """One run of one row; `busy` is CPU time over wall time, at most the number of threads."""

    seconds: float
    busy: float
    minor_faults: int
    device_peak_bytes: int


@dataclass(frozen=True)
class Round:
    """A run of each row, and the load average at the start."""

    runs: Mapping[str, Run]
    load: float


@dataclass(frozen=True)
class Ratio:
    """Median and range of a ratio over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """
        >>> print(Ratio.of([8.0, 9.0, 20.0], [2.0, 3.0, 4.0]))
        4.0 (3.0-5.0)
        """
        each = [a / b for a, b in zip(above, below, strict=True)]
        return cls(statistics.median(each), min(each), max(each))

    def __str__(self) -> str:
        digits = 2 if self.median < 2 else 1
        low, middle, high = (f"{x:.{digits}f}" for x in (self.low, self.median, self.high))
        return f"{middle} ({low}-{high})"


def alternating(
    rows: Mapping[str, Callable[[], object]], rounds: int, device: str
) -> Iterator[Round]:
    """Runs all rows in each round, reversing their order every other round."""
    names = list(rows)
    for turn in range(rounds):
        order = names[::-1] if turn % 2 else names
        load = os.getloadavg()[0]
        runs = {name: measured(rows[name], device) for name in order}
        yield Round({name: runs[name] for name in names}, load)


def measured(work: Callable[[], object], device: str) -> Run:
    """Runs `work` once and waits for the device.

    Work that is measured in another process returns its own `Run`.
    """
    is_gpu = device.startswith("cuda")
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    cpu_s, started = time.process_time(), time.perf_counter()
    result = work()
    if isinstance(result, Run):
        return result
    if is_gpu:
        torch.cuda.synchronize(device)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    peak = torch.cuda.max_memory_allocated(device) if is_gpu else 0
    return Run(seconds, cpu_s / seconds, faults, peak)


def undisturbed(rounds: Sequence[Round], least_busy: float) -> list[Round]:
    """Returns the rounds in which every row had its cores; raises SystemExit if there is none."""
    calm = [each for each in rounds if all(run.busy >= least_busy for run in each.runs.values())]
    if not calm:
        worst = {n: round(min(r.runs[n].busy for r in rounds), 2) for n in rounds[0].runs}
        raise SystemExit(
            f"no round had {least_busy:.2f} cores for every row: {worst}. Measure on an idle"
            " machine, or lower --least-busy if the rows use fewer cores."
        )
    return calm


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Formats a Markdown table.

    >>> print(markdown(["row", "seconds"], [["a", 1], ["b", 2.5]]))
    | row | seconds |
    |---|---|
    | a | 1 |
    | b | 2.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    text = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)
