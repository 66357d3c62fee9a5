"""`slidesr doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidesr.cli import options as common
from slidesr.cli.show import as_json, bytes_text, console, facts, line

if TYPE_CHECKING:
    from slidesr.api.environment import Environment
    from slidesr.verify.findings import Finding


@click.command()
@common.json_output
@click.pass_context
def doctor(context: click.Context, *, json_: bool) -> None:
    """Show what this machine has for slidesr, and what is missing.

    Ends with exit code 1 where something that slidesr cannot work without is missing or broken.
    """
    with console.status("looking"):
        from slidesr.api.environment import examine

        found = examine(Path())
    if json_:
        as_json(found)
    else:
        facts(f"slidesr {found.slidesr}", _rows(found))
        for warning in found.warnings:
            line(f"warning: {warning}", "yellow")
        for problem in found.problems:
            line(f"problem: {problem}", "bold red")
        if not found.problems:
            line("slidesr can work here", "green")
    context.exit(1 if found.problems else 0)


def _rows(found: Environment) -> dict[str, str]:
    processor = found.processor
    extras = [
        name for name, there in (("bf16", processor.has_bf16), ("AMX", processor.has_amx)) if there
    ]
    return {
        "Python": f"{found.python}, {found.system}",
        **{each.name: _package(each.version, each.problem) for each in found.packages},
        "processor": f"{processor.name}, {processor.cores} cores, {' and '.join(extras) or 'fp32'}",
        "GPUs": ", ".join(
            f"{each.device} {each.name} {bytes_text(each.memory_bytes)}" for each in found.gpus
        )
        or "none",
        "memory": bytes_text(found.memory_bytes),
        "free disk": f"{bytes_text(found.free_disk_bytes)} in this folder",
        **{f"reads: {_name(each)}": _reader(each) for each in found.readers},
        "models": ", ".join(found.models) or "none",
        "cache": str(found.cache),
    }


def _package(version: str, problem: str) -> str:
    if problem:
        return f"{version} broken".strip() if version else "missing"
    return version or "not installed (optional)"


def _name(finding: Finding) -> str:
    return finding.by.rpartition(" ")[0] or finding.by


def _reader(finding: Finding) -> str:
    reason = finding.detail or finding.by.rpartition(" ")[2]
    return reason if finding.outcome == "ok" else f"{finding.outcome}: {reason}"
