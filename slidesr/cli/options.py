"""Options that several commands share; defaults and choices are those of the library's types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from slidesr.errors import RefusedError
from slidesr.imaging.window import Window
from slidesr.output.compression import COMPRESSIONS, Compression
from slidesr.output.format import LAYOUTS, NGFF_VERSIONS, Format
from slidesr.pipeline.options import PRECISIONS, Options

_Command = TypeVar("_Command", bound=Callable[..., Any])
DEFAULTS = Options()
_FORMAT = DEFAULTS.format
_LOSSY = tuple(name for name in COMPRESSIONS if name.startswith("jpeg"))


class _WindowType(click.ParamType[Window | str]):
    name = "auto|low,high"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Window | str:
        if isinstance(value, Window):
            return value
        try:
            return "auto" if value == "auto" else Window.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither auto nor two rising samples LOW,HIGH", param, ctx)


device = click.option(
    "--device", default=DEFAULTS.device, show_default=True, help="auto, cpu, cuda or cuda:N."
)
precision = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=DEFAULTS.precision,
    show_default=True,
    help="auto is bf16 where the device has it in hardware, else fp32.",
)
window = click.option(
    "--window",
    type=_WindowType(),
    help="Samples of a 16-bit slide that become black and white, or auto: the bits in use.",
)
json_output = click.option(
    "--json", "json_", is_flag=True, help="Print the result as JSON on stdout."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
_compression = click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    default=_FORMAT.compression.name,
    show_default=True,
    help="Of a TIFF's tiles; jpeg is YCbCr 4:2:0, jpeg-rgb is RGB 4:4:4.",
)
_quality = click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=_FORMAT.compression.quality,
    show_default=True,
    help="JPEG quality.",
)
_layout = click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default=_FORMAT.layout,
    show_default=True,
    help="How a TIFF links its pyramid levels; hybrid opens everywhere.",
)
_ngff_version = click.option(
    "--ngff-version",
    type=click.Choice(NGFF_VERSIONS),
    default=_FORMAT.ngff_version,
    show_default=True,
    help="Version of an .ome.zarr; 0.5 has fewer and larger files, and fewer readers.",
)


def stored(command: _Command) -> _Command:
    """Adds the options for how an output is stored; `format_of` takes their values."""
    return _compression(_quality(_layout(_ngff_version(command))))


def format_of(*, compression: str, quality: int, layout: str, ngff_version: str) -> Format:
    """Collects the values of the options that `stored` adds."""
    return Format(Compression(compression, quality), layout, ngff_version)


def is_given(context: click.Context, name: str) -> bool:
    """Whether the user typed the option, rather than leaving its default."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_idle(context: click.Context, output: Path | None) -> None:
    """Raises RefusedError for options of `stored` that would have no effect on this output."""
    to_zarr = output is not None and output.suffix == ".zarr"
    for name in ("compression", "quality", "layout") if to_zarr else ("ngff_version",):
        if is_given(context, name):
            option, kind = name.replace("_", "-"), ".ome.tif" if to_zarr else ".ome.zarr"
            raise RefusedError(f"--{option} is for {kind} alone: leave it out, or name one.")
    compression = context.params["compression"]
    if is_given(context, "quality") and compression not in _LOSSY:
        raise RefusedError(f"--quality has no effect with --compression {compression}.")
