"""How a job is run at the terminal: opened, run under a progress bar, and told of."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from slidesr.cli.show import (
    as_json,
    bytes_text,
    console,
    facts,
    line,
    progress_bar,
    stoppable,
    time_text,
)
from slidesr.runtime.paths import as_typed, is_remote

if TYPE_CHECKING:
    from slidesr.pipeline.executor import Workers
    from slidesr.pipeline.job import Job
    from slidesr.pipeline.profile import Stopwatch
    from slidesr.pipeline.run import Executor, Progress, Summary

# A background pixel costs about this share of a tissue pixel; it only shapes the progress bar.
_BACKGROUND_COST = 0.02


@contextmanager
def opened(source: Path, output: Path | None, workers: Workers) -> Iterator[Job]:
    """A job that was checked; says what it is doing until then."""
    from slidesr.pipeline.job import prepared

    with ExitStack() as stack:
        with console.status("looking at the slide"):
            model = workers.open_model()
            job = stack.enter_context(prepared(source, output, workers.options, model))
        yield job


def run_job(job: Job, watch: Stopwatch | None = None, make: Executor | None = None) -> Summary:
    """Runs a job under a progress bar; `make` says who makes its blocks."""
    from slidesr.pipeline.run import upscale

    tissue_px = job.tissue_px
    total = tissue_px + _BACKGROUND_COST * (job.plan.region.area - tissue_px)
    started = time.monotonic()
    with progress_bar(job.output.name, total) as bar:

        def report(done: Progress) -> None:
            made_px = done.tissue_px - done.resumed_px
            rate = made_px / 1e6 / max(1e-9, time.monotonic() - started)
            bar.update(
                bar.task_ids[0],
                completed=done.tissue_px + _BACKGROUND_COST * (done.source_px - done.tissue_px),
                note=f"tissue {done.tissue_px / 1e6:.1f} of {tissue_px / 1e6:.1f} Mpx,"
                f" {rate:.3f} Mpx/s",
            )

        with stoppable():
            return upscale(job, report, watch, make)


def show_summary(summary: Summary, *, json_: bool = False) -> None:
    """Tells what came of a job."""
    if json_:
        as_json(summary)
        return
    stages = ", ".join(f"{stage} {time_text(s)}" for stage, s in summary.stage_s.items())
    rate = (summary.tissue_px - summary.resumed_px) / 1e6 / summary.seconds
    rows = {
        "output": as_typed(summary.output),
        "size": f"{summary.size} px (source {summary.source} px), {summary.levels} levels",
        "file": bytes_text(summary.output_bytes),
        "pixel": f"{summary.mpp} um (source {summary.source_mpp} um)"
        if summary.mpp
        else "size unknown",
        "tissue": f"{summary.tissue_share:.1%}, {summary.tissue_px / 1e6:.2f} Mpx"
        + (f" ({summary.resumed_px / 1e6:.2f} before)" if summary.resumed_px else ""),
        "model": f"{summary.model} on {summary.device}, {summary.precision}",
        "time": f"{time_text(summary.seconds)}, {rate:.3f} Mpx of tissue/s (busy: {stages})",
        "memory": f"{bytes_text(summary.peak_memory_bytes)} at most",
    }
    if summary.filled_tiles:
        rows["filled"] = "unreadable source tiles (level:x,y,w,h): " + " ".join(
            summary.filled_tiles
        )
    facts("", rows)
    line(f"Look at it: slidesr view {as_typed(summary.input)} {as_typed(summary.output)}", "dim")
    line("Synthetic: the details are the network's. Not for diagnosis.", "dim")


def show_profile(job: Job, summary: Summary, watch: Stopwatch) -> None:
    """Tells where the time of a job went, and writes its trace beside the output."""
    from slidesr.nets.cost import convolution_ceiling, flops_per_px

    folder = Path() if is_remote(job.output) else job.output.parent
    trace = folder / f"{job.output.name}.trace.json"
    trace.write_text(json.dumps(watch.chrome_trace()))
    table = Table("stage", "busy", "share of the time", box=None)
    for stage, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        table.add_row(stage, time_text(seconds), f"{seconds / summary.seconds:.1%}")
    Console().print(table)
    engine = job.model.engine
    ceiling = convolution_ceiling(engine.device, engine.precision)
    made_px = summary.tissue_px - summary.resumed_px
    rate = flops_per_px(job.model.spec.generator) * made_px / summary.seconds
    facts(
        "",
        {
            "network": f"busy {watch.share_from_first_to_last('network'):.1%}"
            " of the time from its first block to its last",
            "arithmetic": f"{rate / 1e9:.0f} GFLOP/s, {rate / ceiling:.0%} of this machine's"
            f" {engine.precision} convolution ceiling ({ceiling / 1e9:.0f} GFLOP/s)",
            "trace": trace,
        },
    )
