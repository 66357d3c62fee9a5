"""What takes the blocks of a plan and makes one output of them: a TIFF or an OME-Zarr."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from slidesr.errors import RefusedError
from slidesr.output.compression import Compression
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.pyramid import EncodedBlock, UpscaledBlock
from slidesr.output.staging import Target, sweep
from slidesr.runtime.paths import as_typed, is_remote, is_zarr_folder, refuse_existing

_ZARR = ".zarr"
BlockEncoder = Callable[[UpscaledBlock], EncodedBlock]
SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".ome.zarr", _ZARR)


@dataclass(frozen=True)
class Format:
    """How an output is stored; `compression` and `layout` are of TIFF, `ngff_version` of Zarr."""

    compression: Compression = field(default_factory=Compression)
    layout: str = "hybrid"
    ngff_version: str = "0.4"

    def bytes_per_px(self, path: Path) -> float:
        """What a pixel of stained tissue at x4 takes, with its share of the pyramid above it."""
        lossless = 1.3 * 4 / 3  # measured, zstd
        return lossless if is_zarr(path) else self.compression.bytes_per_px


class SlideWriter(Protocol):
    """An output in the making, a context manager: whole or not at all when it is left.

    `encode` blocks, in any thread or process: it is a function that can be pickled; `append` and
    `settle` them in the plan's order; then `finish`.
    What a stopped one left is gone on with: `resumed` blocks are there. `notes` are facts that are
    learnt while running; they outlive a stop, and the output tells them.
    """

    resumed: int
    notes: dict[str, str]

    @property
    def encode(self) -> BlockEncoder: ...

    def append(self, encoded: EncodedBlock) -> None: ...

    def settle(self, blocks: int) -> None:
        """So many blocks are there; from time to time that is made to outlive a kill."""

    def finish(self) -> int:
        """Publishes the output; its size in bytes."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def open_writer(target: Target, format_: Format) -> SlideWriter:
    """The writer for the container that the output's name asks for; errors as of `StagedOutput`."""
    if is_zarr(target.path):
        from slidesr.output.zarr.writer import OmeZarrWriter  # zarr takes 0.2 s to import

        return OmeZarrWriter(target, format_.ngff_version)
    return OmeTiffWriter(target, format_.compression, format_.layout)


def is_zarr(path: Path) -> bool:
    """Whether the name is that of a Zarr store, which is a folder."""
    return path.name.lower().endswith(_ZARR)


def check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    """Raises RefusedError where an output of this name cannot be made; tidies up after a kill."""
    if is_remote(output):
        if not is_zarr(output):
            raise RefusedError(
                f"{as_typed(output)}: behind a URL only an .ome.zarr can be written."
            )
        return  # the rest is asked of the store when writing begins
    if not output.name.lower().endswith(SUFFIXES):
        raise RefusedError(f"{output}: the name must end with one of {', '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise RefusedError(f"{output}: there is no folder {output.parent}. Make it first.")
    if output.exists() and source.exists() and output.samefile(source):
        raise RefusedError(f"{output}: is the input itself. Choose another output.")
    sweep(output)
    if output.exists() and not _is_of_a_kind(output):
        raise RefusedError(f"{output}: is not what its name says. Choose another output.")
    refuse_existing(output, overwrite=overwrite)
    if not os.access(output.parent, os.W_OK):
        raise RefusedError(f"{output}: the folder {output.parent} may not be written to")


def _is_of_a_kind(output: Path) -> bool:
    """Whether what is there may be an output of this name; no other folder is ever replaced."""
    if not is_zarr(output):
        return output.is_file()
    return is_zarr_folder(output)
