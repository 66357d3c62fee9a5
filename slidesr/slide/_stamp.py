"""A stamp that changes when a slide's file changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from slidesr.errors import RefusedError, SlidesrError
from slidesr.runtime.dicom_folder import dicom_files
from slidesr.runtime.paths import is_remote, is_zarr_folder

Stamp = tuple[int, int]


def stamp_of(path: Path) -> Stamp:
    """Size in bytes and modification time in ns; of a folder the sum and maximum of its files.

    In a DICOM folder only the files of slides count. Of a store behind a URL it is 0 and the CRC of
    its metadata: changed chunks under the same metadata go unnoticed. Raises SlidesrError where the
    file is gone.
    """
    try:
        if path.is_dir():
            stats = [file.stat() for file in _files(path)]
        elif is_remote(path):
            from slidesr.slide.sources.by_zarr import metadata_crc  # zarr takes 0.2 s to import

            return 0, metadata_crc(path)
        else:
            stats = [path.stat()]
    except RefusedError as error:  # it opened before
        raise SlidesrError(f"{path}: is gone: {error}") from error
    except OSError as error:
        raise SlidesrError(f"{path}: is gone: {error.strerror}") from error
    return sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0)


def _files(folder: Path) -> Iterable[Path]:
    if is_zarr_folder(folder):
        return (Path(name) / file for name, _, files in os.walk(folder) for file in files)
    return dicom_files(folder)
