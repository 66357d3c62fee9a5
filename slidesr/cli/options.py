"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from slidesr.errors import RefusedError
from slidesr.output.compression import COMPRESSIONS, Compression
from slidesr.output.zarr.ngff import NGFF_VERSIONS

if TYPE_CHECKING:
    from slidesr.output.writer import Format

device = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto is bf16 where the device has it.",
)
_compression = click.option(
    "--compression", type=click.Choice(COMPRESSIONS), default="jpeg", show_default=True
)
_quality = click.option(
    "--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG."
)
_layout = click.option(
    "--layout",
    type=click.Choice(["hybrid", "ome", "generic"]),
    default="hybrid",
    show_default=True,
    help="How the levels of a TIFF are linked; hybrid opens everywhere.",
)
_ngff_version = click.option(
    "--ngff-version",
    type=click.Choice(NGFF_VERSIONS),
    default="0.4",
    show_default=True,
    help="Of an .ome.zarr; 0.5 has fewer and larger files, and fewer readers.",
)


def stored(command: Callable[..., Any]) -> Callable[..., Any]:
    """How an output is stored; `format_of` takes the choices."""
    return _compression(_quality(_layout(_ngff_version(command))))


def format_of(*, compression: str, quality: int, layout: str, ngff_version: str) -> Format:
    """The choices of `stored` as one."""
    from slidesr.output.writer import Format

    return Format(Compression(compression, quality), layout, ngff_version)


def refuse_idle(context: click.Context, output: Path | None) -> None:
    """Raises RefusedError for choices of `stored` that would do nothing for this output."""
    to_zarr = output is not None and output.suffix == ".zarr"
    for name in ("compression", "quality", "layout") if to_zarr else ("ngff_version",):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option, kind = name.replace("_", "-"), ".ome.tif" if to_zarr else ".ome.zarr"
            raise RefusedError(f"--{option} is for {kind} alone: leave it out, or name one.")
