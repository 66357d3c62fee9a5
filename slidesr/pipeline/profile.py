"""Where the time of a run goes: busy seconds by stage, each span for a trace, share of peak."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    """A stretch of work of one stage in one thread; seconds since the run began."""

    stage: str
    thread: int
    start_s: float
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a run went, and how near the network came to the machine's ceiling."""

    stage_s: dict[str, float]  # busy seconds by stage, added over threads
    network_share: float  # of the time from its first block to its last
    flops: float  # of the network, over the whole run
    ceiling_flops: float  # of a convolution on this device, measured
    trace: Path  # of spans, for https://ui.perfetto.dev


class Stopwatch:
    """Busy seconds by stage, added over threads; with `keeps_spans` each stretch, 100 bytes."""

    def __init__(self, *, keeps_spans: bool = False) -> None:
        self.spans: list[Span] = []
        self._keeps_spans, self._began = keeps_spans, time.monotonic()
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start_s = self.total_s
        try:
            yield
        finally:
            seconds = self.total_s - start_s
            with self._lock:
                self._seconds[stage] += seconds  # type: ignore[assignment]
                if self._keeps_spans:
                    self.spans.append(Span(stage, threading.get_ident(), start_s, seconds))

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds busy seconds of another process, by stage, without spans."""
        with self._lock:
            for stage, more in seconds.items():
                self._seconds[stage] += more  # type: ignore[assignment]

    @property
    def total_s(self) -> float:
        """Seconds since it was created."""
        return time.monotonic() - self._began

    @property
    def seconds(self) -> dict[str, float]:
        return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}

    def share_from_first_to_last(self, stage: str) -> float:
        """How busy a stage is between its first start and its last end, in 0..1."""
        spans = [span for span in self.spans if span.stage == stage]
        if not spans:
            return 0.0
        end_s = max(span.start_s + span.seconds for span in spans)
        return sum(span.seconds for span in spans) / (end_s - spans[0].start_s)

    def chrome_trace(self) -> dict[str, Any]:
        """The spans for chrome://tracing or https://ui.perfetto.dev: one row a thread.

        Format: "Trace Event Format", complete events in microseconds.
        """
        rows = {
            thread: row for row, thread in enumerate(dict.fromkeys(s.thread for s in self.spans))
        }
        return {
            "traceEvents": [
                {
                    "name": span.stage,
                    "ph": "X",
                    "pid": 0,
                    "tid": rows[span.thread],
                    "ts": round(span.start_s * 1e6),
                    "dur": round(span.seconds * 1e6),
                }
                for span in self.spans
            ]
        }
