"""Slides among files and folders: which paths are slides, and what their names are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from slidesr.runtime.dicom_folder import dicom_files, one_file_a_slide
from slidesr.runtime.paths import is_store, name_of

SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn"),
    *(".mrxs", ".svslide", ".bif", ".dcm", ".zarr", ".zarr.zip"),
)
_FORMAT_SUFFIXES = (".ome.zarr.zip", ".zarr.zip", ".ome.zarr", ".zarr", ".ome.tiff", ".ome.tif")


def is_one_slide(path: Path) -> bool:
    """Whether a path is a slide, rather than a list or folder of slides.

    A folder is one if it is a Zarr store, or holds the DICOM files of one slide and no other slide.
    """
    if not path.is_dir():
        return path.suffix.lower() != ".csv"
    if is_store(path):
        return True
    files = dicom_files(path)
    return len(one_file_a_slide(files)) == 1 and all(found in files for found in slides_below(path))


def slides_below(folder: Path) -> Iterator[Path]:
    """The slides in a folder and the folders below it, by name; hidden ones are left out.

    Of DICOM files, which are many to a slide, the first of each slide.
    """
    for name, folders, files in os.walk(folder):
        here = Path(name)
        names = sorted(n for n in (*files, *folders) if n.lower().endswith(SLIDE_SUFFIXES))
        folders[:] = sorted(f for f in folders if f not in names and not f.startswith("."))
        shown = [here / each for each in names if not each.startswith(".")]
        dicom = [path for path in shown if path.suffix.lower() == ".dcm"]
        rest = set(dicom).difference(one_file_a_slide(dicom))
        yield from (path for path in shown if path not in rest)


def stem_of(slide: Path) -> str:
    """The name of a slide without the suffix of its format.

    >>> [stem_of(Path(name)) for name in ("a/tumor_001.ome.tif", "b.ome.zarr", "c.1.svs")]
    ['tumor_001', 'b', 'c.1']
    """
    name = name_of(slide)
    for suffix in _FORMAT_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name if slide.is_dir() else slide.stem
