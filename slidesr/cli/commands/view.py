"""`slidesr view`."""

from __future__ import annotations

import webbrowser
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidesr.cli import options as common
from slidesr.cli.show import console, counted, line
from slidesr.errors import printable
from slidesr.imaging.window import WindowChoice
from slidesr.runtime.sandbox import sandboxed

if TYPE_CHECKING:
    from slidesr.view import Exhibit


@click.command()
@click.argument(
    "files", metavar="FILE [FILE]", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the page.  [default: a free one]",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--export",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write a folder of files instead, for any web server or to open from disk.",
)
@common.window
@click.option("--overwrite", is_flag=True, help="Replace an older export.")
def view(
    files: tuple[Path, ...],
    port: int,
    folder: Path | None,
    *,
    window: WindowChoice,
    no_browser: bool,
    overwrite: bool,
) -> None:
    """Show a slide in the browser, or a slide before and after upscaling.

    Only this machine can reach the page. Ctrl-C ends it.
    """
    with console.status("loading"), ExitStack() as trials:
        for file in files[:2]:
            trials.enter_context(sandboxed(file))
        from slidesr.view import exhibit

    with exhibit(files, window) as shown:
        if folder is None:
            _serve(shown, port, no_browser=no_browser)
        else:
            _export(shown, folder, overwrite=overwrite)


def _serve(shown: Exhibit, port: int, *, no_browser: bool) -> None:
    from slidesr.view import Server

    with Server(shown, port) as server:
        click.echo(server.url)
        line("Ctrl-C ends it.", "dim")
        if not no_browser:
            webbrowser.open(server.url)
        try:
            server.serve()
        except KeyboardInterrupt:
            line("ended", "dim")


def _export(shown: Exhibit, folder: Path, *, overwrite: bool) -> None:
    from slidesr.view import export

    with counted(folder.name) as report:
        count = export(shown, folder, report, overwrite=overwrite)
    click.echo(printable(f"{folder / 'index.html'}: {count} tiles"))
