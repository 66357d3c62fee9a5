"""How results of `slidesr upscale` are shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from slidesr.cli.show import as_json, bytes_text, facts, inert, line, time_text
from slidesr.errors import printable
from slidesr.runtime.paths import as_typed

if TYPE_CHECKING:
    from slidesr.api import Estimate
    from slidesr.pipeline.batch import SlideOutcome
    from slidesr.pipeline.profile import Profile
    from slidesr.pipeline.run import Summary

_STYLE = {"refused": "red", "failed": "red", "busy": "yellow", "filled": "yellow"}


def show_summary(summary: Summary, *, json_: bool = False) -> None:
    """Shows what a run did."""
    if json_:
        as_json(summary)
        return
    stages = ", ".join(f"{stage} {time_text(s)}" for stage, s in summary.stage_s.items())
    rate = (summary.tissue_px - summary.resumed_px) / 1e6 / summary.seconds
    resumed = f" ({summary.resumed_px / 1e6:.2f} resumed)" if summary.resumed_px else ""
    rows = {
        "output": as_typed(summary.output),
        "size": f"{summary.size} px (source {summary.source} px), {summary.levels} levels",
        "file": bytes_text(summary.output_bytes),
        "pixel": f"{summary.mpp} um (source {summary.source_mpp} um)"
        if summary.mpp
        else "size unknown",
        "tissue": f"{summary.tissue_share:.1%}, {summary.tissue_px / 1e6:.2f} Mpx{resumed}",
        "model": f"{summary.model} on {summary.device}, {summary.precision}",
        "time": f"{time_text(summary.seconds)}, {rate:.3f} Mpx of tissue/s (busy: {stages})",
        "memory": f"{bytes_text(summary.peak_memory_bytes)} at most",
    }
    if summary.filled_tiles:
        tiles = " ".join(summary.filled_tiles)
        rows["filled"] = f"unreadable source tiles (level:x,y,w,h): {tiles}"
    facts("", rows)
    line(f"Look at it: slidesr view {as_typed(summary.input)} {as_typed(summary.output)}", "dim")
    line("Synthetic: the details are the network's. Not for diagnosis.", "dim")


def show_estimate(estimate: Estimate, *, json_: bool) -> None:
    """Shows what a run would give and cost."""
    if json_:
        as_json(
            {
                "output": as_typed(estimate.output),
                "width": estimate.size.width,
                "height": estimate.size.height,
                "levels": estimate.levels,
                "mpp": estimate.mpp.mean if estimate.mpp else None,
                "model": estimate.model,
                "device": estimate.device,
                "precision": estimate.precision,
                "tissue_share": estimate.tissue_share,
                "estimated_seconds": estimate.seconds,
                "estimated_bytes": estimate.output_bytes,
                "estimated_memory_bytes": estimate.memory_bytes,
            }
        )
        return
    facts(
        "Nothing was written. It would be:",
        {
            "output": as_typed(estimate.output),
            "size": f"{estimate.size} px, {estimate.levels} levels,"
            f" about {bytes_text(estimate.output_bytes)}",
            "pixel": f"{estimate.mpp} um" if estimate.mpp else "size unknown",
            "tissue": f"{estimate.tissue_share:.1%}",
            "model": f"{estimate.model} on {estimate.device}, {estimate.precision}",
            "time": f"about {time_text(estimate.seconds)}",
            "memory": f"about {bytes_text(estimate.memory_bytes)}",
        },
    )


def show_profile(summary: Summary, profile: Profile) -> None:
    """Shows where the time of a run went."""
    table = Table("stage", "busy", "share of the time", box=None)
    for stage, seconds in sorted(profile.stage_s.items(), key=lambda item: -item[1]):
        table.add_row(stage, time_text(seconds), f"{seconds / summary.seconds:.1%}")
    Console().print(table)
    flops, ceiling = profile.flops, profile.ceiling_flops
    facts(
        "",
        {
            "network": f"busy {profile.network_share:.1%}"
            " of the time from its first block to its last",
            "arithmetic": f"{flops / 1e9:.0f} GFLOP/s, {flops / ceiling:.0%} of this machine's"
            f" {summary.precision} convolution ceiling ({ceiling / 1e9:.0f} GFLOP/s)",
            "trace": profile.trace,
        },
    )


def show_outcomes(outcomes: Iterable[SlideOutcome], folder: Path) -> None:
    """Shows one row for each slide of a batch."""
    table = Table("slide", "", "time", "why", box=None)
    for outcome in outcomes:
        table.add_row(
            inert(outcome.item.source),
            inert(outcome.status, _STYLE.get(outcome.status, "green")),
            time_text(outcome.summary.seconds) if outcome.summary else "",
            inert(outcome.why),
        )
    Console().print(table)
    click.echo(printable(f"Details are in {folder / 'summary.json'}"))
