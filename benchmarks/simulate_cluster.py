"""Predicts processing times on a cluster and the bottleneck: workers, driver or store.

A discrete-event simulation of slidesr: the driver prepares slides sequentially, blocks are
submitted in order, workers read from a shared store, and the driver collects each block. `--check`
measures the unit costs on a small slide with one worker, then runs a larger slide on 1, 2 and 4
workers, each pinned to a core, and prints predicted and measured times.

python benchmarks/simulate_cluster.py [--check] [--network-s 2.1] [--store-mbps 1000]
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

_AHEAD, _MOST_TISSUE, _MOST_TOGETHER = 4, 4, 64  # as in dask_cluster and batch
_UNIT_PX = 1024  # side of the slide for the unit costs of a check
_MOST_EVENTS, _MOST_SLIDES = 200_000, 500


@dataclass(frozen=True)
class Costs:
    """Unit costs in seconds of one core and bytes; a block is 512 x 512 source pixels at x4."""

    network_s: float = 2.8  # network, per block of tissue
    rest_s: float = 0.03  # read and encode, per block of tissue
    glass_s: float = 0.008  # everything, per block of glass
    driver_s: float = 0.0036  # driver, per block of tissue
    driver_glass_s: float = 0.0004  # driver, per block of glass
    prepare_s: float = 1.5  # driver, per slide: open, test, find tissue, publish
    open_s: float = 0.1  # worker, per slide
    start_s: float = 4.0  # worker, once: Python, torch, the model
    block_bytes: float = 0.85e6  # read from and written to the store
    store_bytes_s: float = 1e9
    jitter: float = 0.05  # relative spread of the time per block


@dataclass(frozen=True)
class Load:
    """Slides, blocks per slide, share of blocks with tissue, and blocks per task (`grain`)."""

    slides: int
    blocks: int = 6_241  # 40,000 x 40,000 px: 20 mm at 0.5 um/px
    tissue_share: float = 0.25
    grain: int = 1


@dataclass
class _Slide:
    number: int
    left: int
    index: int = 0  # next part to submit
    queued: int = 0  # parts passed to the driver
    taken: int = 0  # parts collected by the driver
    finished: set[int] = field(default_factory=set)


class Simulation:
    """Simulates workers, driver and store; times are in seconds from the start."""

    def __init__(self, load: Load, costs: Costs, workers: int, seed: int = 1) -> None:
        self.load, self.costs, self.workers = load, costs, workers
        self._rng = random.Random(seed)  # noqa: S311
        self._events: list[tuple[float, int, Callable[..., None], tuple[int, ...]]] = []
        self._count = 0
        self._parts = max(1, load.blocks // load.grain)
        self._waiting = deque(range(load.slides))
        self._active: dict[int, _Slide] = {}
        self._idle: list[int] = []
        self._opened: dict[int, set[int]] = {}
        self._driver_free_s = self._store_free_s = 0.0
        self.driver_s = self.store_s = self.busy_s = self.end_s = 0.0

    def run(self) -> float:
        """Returns the time at which the last slide is published."""
        for worker in range(self.workers):
            self._at(self.costs.start_s, self._free, worker)
        for _ in range(min(_MOST_TOGETHER, max(2, self.workers), self.load.slides)):
            self._begin_slide(self.costs.start_s)
        while self._events:
            now_s, _, what, arguments = heapq.heappop(self._events)
            what(now_s, *arguments)
        return self.end_s

    @property
    def _room(self) -> int:
        return room(self.workers, max(1, len(self._active)))

    @property
    def limit(self) -> str:
        """The bottleneck and its utilisation."""
        shares = {
            "workers": self.busy_s / self.workers / self.end_s,
            "driver": self.driver_s / self.end_s,
            "store": self.store_s / self.end_s,
        }
        name = max(shares, key=lambda each: shares[each])
        return f"{name} {shares[name]:.0%}"

    def _at(self, time_s: float, what: Callable[..., None], *arguments: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (time_s, self._count, what, arguments))

    def _drive(self, now_s: float, seconds: float) -> float:
        self._driver_free_s = max(self._driver_free_s, now_s) + seconds
        self.driver_s += seconds
        return self._driver_free_s

    def _begin_slide(self, now_s: float) -> None:
        if self._waiting:
            self._at(self._drive(now_s, self.costs.prepare_s), self._ready, self._waiting.popleft())

    def _ready(self, now_s: float, number: int) -> None:
        self._active[number] = _Slide(number, self._parts)
        self._opened[number] = set()
        self._wake(now_s)

    def _free(self, now_s: float, worker: int) -> None:
        self._idle.append(worker)
        self._wake(now_s)

    def _wake(self, now_s: float) -> None:
        """Assigns the earliest available parts to idle workers."""
        while self._idle:
            ready = [s for s in self._active.values() if s.left and s.index - s.taken < self._room]
            if not ready:
                return
            slide = min(ready, key=lambda each: (each.index, each.number))
            self._work(now_s, slide, self._idle.pop())

    def _work(self, now_s: float, slide: _Slide, worker: int) -> None:
        costs, grain = self.costs, self.load.grain
        tissue = self._tissue(slide.index)
        seconds = tissue * (costs.network_s + costs.rest_s) + (grain - tissue) * costs.glass_s
        seconds *= 1 + self._rng.uniform(-1, 1) * costs.jitter
        if worker not in self._opened[slide.number]:
            self._opened[slide.number].add(worker)
            seconds += costs.open_s
        moving_s = tissue * costs.block_bytes / costs.store_bytes_s
        self._store_free_s = max(self._store_free_s, now_s) + moving_s
        end_s = max(now_s + seconds, self._store_free_s)
        self.busy_s, self.store_s = self.busy_s + end_s - now_s, self.store_s + moving_s
        self._at(end_s, self._finished, slide.number, slide.index)
        self._at(end_s, self._free, worker)
        slide.index, slide.left = slide.index + 1, slide.left - 1

    def _tissue(self, index: int) -> float:
        """Number of blocks with tissue in a part; tissue is contiguous."""
        return float(self.load.grain * (index < self.load.tissue_share * self._parts))

    def _fetching_s(self, index: int) -> float:
        tissue = self._tissue(index)
        return tissue * self.costs.driver_s + (self.load.grain - tissue) * self.costs.driver_glass_s

    def _finished(self, now_s: float, number: int, index: int) -> None:
        slide = self._active[number]
        slide.finished.add(index)
        while slide.queued in slide.finished:
            slide.finished.remove(slide.queued)
            self._at(self._drive(now_s, self._fetching_s(slide.queued)), self._taken, number)
            slide.queued += 1

    def _taken(self, now_s: float, number: int) -> None:
        slide = self._active[number]
        slide.taken += 1
        if slide.taken == self._parts:
            del self._active[number], self._opened[number]
            self.end_s = now_s
            self._begin_slide(now_s)
        self._wake(now_s)


def room(workers: int, jobs: int) -> int:
    """Maximum number of tasks in flight per job."""
    return max(2, _AHEAD * workers // jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--side", type=int, default=2000, help="side of the larger slide of --check, in pixels"
    )
    parser.add_argument("--network-s", type=float, default=Costs.network_s)
    parser.add_argument("--store-mbps", type=float, default=Costs.store_bytes_s / 1e6)
    choices = parser.parse_args()
    if choices.check:
        check(choices.side)
        return
    costs = replace(Costs(), network_s=choices.network_s, store_bytes_s=choices.store_mbps * 1e6)
    print("| slides | workers | time | slides per hour | busiest |")
    print("|---|---|---|---|---|")
    for slides in (1, 1_000, 100_000):
        for workers in (1, 10, 100, 1_000):
            some = min(slides, _MOST_SLIDES)  # the pace is constant after these
            jobs = min(_MOST_TOGETHER, some)
            together = min(_MOST_TISSUE, Load.blocks // (_MOST_TISSUE * room(workers, jobs)))
            load = Load(some, grain=max(1, together, some * Load.blocks // _MOST_EVENTS))
            simulation = Simulation(load, costs, workers)
            seconds = simulation.run() * slides / some
            rate = 3600 * slides / seconds
            row = f"{slides} | {workers} | {_formatted(seconds)} | {rate:.3g}"
            print(f"| {row} | {simulation.limit} |")


def check(side_px: int) -> None:
    """Prints predicted and measured times on this machine's cores."""
    from hand_started import hand_started

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with hand_started(folder, 1) as address:
            measured = list(_runs(folder, address, 1, [_UNIT_PX, side_px]))
        costs, blocks, alone_s = measured[0][1], measured[1][2], measured[1][0]
        larger = (side_px**2 / blocks) / (_UNIT_PX**2 / measured[0][2])
        print(f"unit costs, of {measured[0][2]} blocks on one worker: {costs}", flush=True)
        print("| workers | predicted (s) | measured (s) | error | speed-up |")
        print("|---|---|---|---|---|")
        for workers in (1, 2, 4):
            seconds = alone_s
            if workers > 1:
                with hand_started(folder, workers) as address:
                    seconds = list(_runs(folder, address, workers, [_UNIT_PX, side_px]))[1][0]
            slower = max(1.0, workers / cores)
            slower *= larger
            real = replace(costs, network_s=costs.network_s * slower, rest_s=costs.rest_s * slower)
            predicted_s = Simulation(Load(1, blocks, 1.0), real, workers).run()
            off = predicted_s / seconds - 1
            row = f"{workers} | {predicted_s:.1f} | {seconds:.1f} | {off:+.0%}"
            print(f"| {row} | {alone_s / seconds:.2f} |", flush=True)


def _runs(
    folder: Path, address: str, workers: int, sides_px: list[int]
) -> Iterator[tuple[float, Costs, int]]:
    """Yields seconds, unit costs and blocks of runs on slides that are all tissue."""
    from material import write_slide

    from slidesr.pipeline.dask_cluster.cluster import connected
    from slidesr.pipeline.options import Options
    from slidesr.pipeline.prepare import prepared
    from slidesr.pipeline.run import upscale

    options = Options(tissue="all", device="cpu", overwrite=True)
    with connected(address) as cluster:
        cluster.client.wait_for_workers(workers)
        for number, side in enumerate((256 * workers, *sides_px)):
            slide = write_slide(folder / f"{side}.tif", side, side)
            began_s, cpu_s = time.monotonic(), time.process_time()
            with prepared(slide, folder / "out.ome.tif", options) as job:
                prepare_s = time.monotonic() - began_s
                blocks = job.plan.block_count
                summary = upscale(job, executor=cluster.make)
            seconds = time.monotonic() - began_s
            stage_s = summary.stage_s
            driver_s = max(0.0, time.process_time() - cpu_s - prepare_s) / blocks
            if number:  # the first run warms up
                costs = Costs(
                    network_s=stage_s["network"] / blocks,
                    rest_s=(stage_s["read"] + stage_s["encode"]) / blocks,
                    driver_s=driver_s,
                    prepare_s=prepare_s,
                    open_s=0.0,
                    start_s=0.0,
                )
                yield seconds, costs, blocks


def _formatted(seconds: float) -> str:
    for unit, length_s in (("years", 3.156e7), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
