"""All families of broken files, written into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from malformed import other_files, slide_files, tiff_files, zarr_folders
from malformed.tiff_files import Files, tiled
from slidesr.errors import printable

_INPUTS: dict[str, Callable[[], Files]] = {
    "tags": tiff_files.changed_tags,
    "cut": tiff_files.truncated,
    "flipped": tiff_files.flipped,
    "chains": tiff_files.chains,
    "kinds": tiff_files.kinds,
    "bombs": tiff_files.bombs,
    "large-tiles": tiff_files.large_tiles,
    "ome": slide_files.ome_xml,
    "aperio": slide_files.aperio,
    "resolutions": slide_files.resolutions,
    "levels": slide_files.level_orders,
    "ndpi": slide_files.ndpi_like,
    "dicom": slide_files.dicom,
    "images": slide_files.images,
}


@dataclass(frozen=True)
class Case:
    """A broken file, and the option it is given to: INPUT, --roi, --tissue or --model."""

    family: str
    path: Path
    option: str = "INPUT"

    @property
    def name(self) -> str:
        return printable(f"{self.path.parent.name}/{self.path.name}")


def make_cases(folder: Path) -> Iterator[Case]:
    """Writes each case when it is asked for; the same bytes each time."""
    for family, files in _INPUTS.items():
        yield from _written(folder, family, files(), "INPUT")
    yield from _written(folder, "roi", other_files.regions(), "--roi")
    yield from _written(folder, "tissue", other_files.masks(), "--tissue")
    yield from _written(folder, "model", other_files.weights(folder / "model"), "--model")
    for family, make in {
        "indexed": slide_files.indexed,
        "sparse": other_files.sparse_giant,
        "zarr": zarr_folders.stores,
        "special": _special,
        "names": _names,
    }.items():
        (folder / family).mkdir(parents=True)
        for option, path in make(folder / family):
            yield Case(family, path, option)


def _written(folder: Path, family: str, files: Files, option: str) -> Iterator[Case]:
    (folder / family).mkdir(parents=True)
    for name, data in files:
        path = folder / family / name
        path.write_bytes(data)
        yield Case(family, path, option)


def _special(folder: Path) -> Iterator[tuple[str, Path]]:
    """What is no regular file, or is nothing at all."""
    os.mkfifo(folder / "pipe.tif")
    (folder / "loop.tif").symlink_to("loop.tif")
    (folder / "nowhere.tif").symlink_to("no/such/file.tif")
    (folder / "zero.tif").symlink_to("/dev/zero")
    (folder / "folder.tif").mkdir()
    (folder / "empty.tif").touch()
    with (folder / "hole.tif").open("wb") as file:
        file.write(tiled()[:4000])
        file.truncate(3 << 30)
    for option in ("INPUT", "--roi", "--tissue", "--model"):
        for name in ("pipe", "loop", "nowhere", "zero", "empty", "missing"):
            yield option, folder / f"{name}.tif"
    yield "INPUT", folder / "folder.tif"
    yield "INPUT", folder / "hole.tif"
    yield "--roi", folder / "folder.tif"


def _names(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names that a console would obey, each of a sound slide and of a broken one."""
    names = (
        b"a b.tif", b"line\nfeed.tif", b"\xff\xfe.tif", b"\x1b[31mred\x1b]0;owned\x07.tif",
        b"[bold red]markup[link].tif", b"-o.tif", b"%s%n.tif", "\u202etif.exe.tif".encode(),
        b"x" * 240 + b".tif",
    )  # fmt: skip
    for name in names:
        for kind, data in (("good", tiled()), ("bad", b"II*\0" + name)):
            path = folder / kind / os.fsdecode(name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            yield "INPUT", path
