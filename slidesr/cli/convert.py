"""`slidesr convert`."""

from __future__ import annotations

from pathlib import Path

import click

from slidesr.cli.show import bytes_text, console


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
def convert(source: Path, output: Path, *, overwrite: bool) -> None:
    """Writes a slide in another container; OUT a folder is DICOM.

    Tiles are copied as they are stored, where the container takes them. Pixel size, magnification
    and ICC profile are kept; label, overview, names and dates are not.
    """
    with console.status("writing"):
        from slidesr.convert import convert as run

        run(source, output, overwrite=overwrite)
    files = [output] if output.is_file() else [each for each in output.rglob("*") if each.is_file()]
    total = bytes_text(sum(each.stat().st_size for each in files))
    click.echo(f"{output}: {len(files)} {'file' if len(files) == 1 else 'files'}, {total}")
