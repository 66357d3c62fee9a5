"""`slidesr convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slidesr.cli import options as common
from slidesr.cli.show import bytes_text, console, counted, stoppable
from slidesr.errors import printable
from slidesr.imaging.window import WindowChoice
from slidesr.runtime.sandbox import sandboxed


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@common.window
@common.stored
@common.overwrite
@click.pass_context
def convert(
    context: click.Context,
    /,
    source: Path,
    output: Path,
    *,
    window: WindowChoice,
    overwrite: bool,
    **stored: Any,
) -> None:
    """Write a slide in another container: OUT is .ome.tif, .tif, .ome.zarr, or a DICOM folder.

    Pixel size, magnification and ICC profile are kept; label, overview, names and dates are not.
    DICOM gets the stored tiles; the others get the pixels of level 0 and a new pyramid.
    """
    with console.status("loading"), sandboxed(source):
        from slidesr import api

    common.refuse_idle(context, output)
    given = any(common.is_given(context, name) for name in stored)
    format_ = common.format_of(**stored) if given else None
    with stoppable(), counted(output.name) as report:
        api.convert(
            *(source, output),
            format=format_,
            window=window,
            on_progress=report,
            overwrite=overwrite,
        )
    files = [output] if output.is_file() else [each for each in output.rglob("*") if each.is_file()]
    total = bytes_text(sum(each.stat().st_size for each in files))
    count = f"{len(files)} {'file' if len(files) == 1 else 'files'}"
    click.echo(printable(f"{output}: {count}, {total}"))
