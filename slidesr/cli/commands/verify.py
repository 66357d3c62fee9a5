"""`slidesr verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slidesr.cli import options as common
from slidesr.cli.show import as_json, console, inert
from slidesr.errors import SlidesrError
from slidesr.runtime.sandbox import sandboxed

if TYPE_CHECKING:
    from slidesr.verify import Verification

_STYLES = {"ok": "green", "failed": "bold red"}


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--full", is_flag=True, help="Decode every tile, rather than at most 64 of each level."
)
@common.json_output
def verify(source: Path, *, full: bool, json_: bool) -> None:
    """Open a slide with every independent reader installed, and show where they disagree.

    FILE is what slidesr wrote, or any other slide: TIFF, OME-Zarr, DICOM (a file or its folder).
    The exit code is 1 where a reader fails or readers disagree.
    """
    with console.status("reading"):
        with sandboxed(source):
            from slidesr.verify import verify as run
        report = run(source, full=full)
    if json_:
        findings = [asdict(each) for each in report.findings]
        as_json({"good": report.is_good, "findings": findings, "file": source.name})
    else:
        _show(report)
    if not report.is_good:
        raise SlidesrError(f"{source}: {_failures(report)}")


def _show(report: Verification) -> None:
    table = Table(
        "check", "by", "", "", title=inert(report.path.name), title_justify="left", box=None
    )
    before = None
    for finding in report.findings:
        check = finding.check if finding.check != before else ""
        outcome = Text(finding.outcome, _STYLES.get(finding.outcome, "dim"))
        table.add_row(check, inert(finding.by), outcome, inert(finding.detail))
        before = finding.check
    Console().print(table)


def _failures(report: Verification) -> str:
    return "; ".join(f"{each.check} by {each.by}: {each.detail}" for each in report.failures)
