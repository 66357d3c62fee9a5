"""The protocol of slide writers, the choice of one by name, and the checks of an output's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from slidesr.errors import RefusedError
from slidesr.output.format import SUFFIXES, Format, is_zarr
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.pyramid import EncodedBlock, UpscaledBlock
from slidesr.output.staging import Target, sweep
from slidesr.runtime.names import check_name
from slidesr.runtime.paths import as_typed, is_remote, is_zarr_folder, refuse_existing

BlockEncoder = Callable[[UpscaledBlock], EncodedBlock]


class SlideWriter(Protocol):
    """Writes one output, which appears whole or not at all; a context manager.

    `encode` blocks in any thread or process (it can be pickled), `append` and `settle` them in the
    plan's order, then `finish`. A stopped run is resumed: the first `resumed` blocks are there
    already. `notes` is provenance added while running; checkpoints and the output keep it.
    """

    resumed: int
    notes: dict[str, str]

    @property
    def encode(self) -> BlockEncoder: ...

    def append(self, encoded: EncodedBlock) -> None: ...

    def settle(self, blocks: int) -> None:
        """States that the first `blocks` blocks are written; saves a checkpoint now and then."""

    def finish(self) -> int:
        """Publishes the output; its size in bytes."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def open_writer(target: Target, format_: Format) -> SlideWriter:
    """The writer for the container that the output's suffix names; errors as of `StagedOutput`."""
    if is_zarr(target.path):
        from slidesr.output.zarr.writer import OmeZarrWriter  # zarr takes 0.2 s to import

        return OmeZarrWriter(target, format_.ngff_version)
    return OmeTiffWriter(target, format_.compression, format_.layout)


def check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    """Raises RefusedError where this output cannot be written; cleans up after a killed run."""
    if is_remote(output):
        if not is_zarr(output):
            raise RefusedError(f"{as_typed(output)}: only an .ome.zarr can be written to a URL.")
        return  # the store is checked when writing starts
    check_name(output)
    if not output.name.lower().endswith(SUFFIXES):
        raise RefusedError(f"{output}: the name must end with one of {', '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise RefusedError(f"{output}: there is no folder {output.parent}. Create it first.")
    if output.exists() and source.exists() and output.samefile(source):
        raise RefusedError(f"{output}: is the input itself. Choose another output.")
    sweep(output)
    if output.exists() and not _is_replaceable(output):
        raise RefusedError(
            f"{output}: exists and is not what its name says. Choose another output."
        )
    refuse_existing(output, overwrite=overwrite)
    if not os.access(output.parent, os.W_OK):
        raise RefusedError(f"{output}: the folder {output.parent} is not writable")


def _is_replaceable(output: Path) -> bool:
    """Whether the existing file or folder may be replaced: a file, or a Zarr store."""
    if not is_zarr(output):
        return output.is_file()
    return is_zarr_folder(output)
