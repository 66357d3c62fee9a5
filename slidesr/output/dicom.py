"""Writes a slide as a folder of DICOM files, one per level, with wsidicomizer (an extra)."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import file_digest
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tifffile

from slidesr.errors import RefusedError
from slidesr.geometry import Size
from slidesr.imaging.icc import srgb_profile
from slidesr.output.metadata import Metadata, plain_text
from slidesr.runtime.atomic_files import exchange, holding, sync_folder
from slidesr.runtime.names import hidden_beside
from slidesr.runtime.paths import refuse_existing

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_MAX_TEXT = 1024  # of DICOM's value representation ST
_QUALITY = 90  # of tiles that are neither copied nor stored losslessly
_UNCOMPRESSED_OR_LOSSLESS = {"NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "ZSTD"}

# What wsidicom sets last, and its replacement of the same length, matched by tag, VR and length
# (explicit VR, little endian). The date is mandatory; this is wsidicomizer's default.
_NO_TIME = {
    rb"(\x08\0\x23\0DA\x08\0).{8}": rb"\g<1>19700101",
    rb"(\x08\0\x33\0TM\x0e\0).{14}": rb"\g<1>000000.000000 ",
}
_DERIVED = {rb"ORIGINAL(\\PRIMARY\\VOLUME\\NONE)": rb"DERIVED\1 "}


def write_dicom(
    source: Path,
    output: Path,
    size: Size,
    metadata: Metadata,
    check: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> Path:
    """Writes the levels of a slide file, whole or not at all, without label and overview.

    `size` and `metadata` are those of level 0; `check` raises where the folder that was written
    must not be published. JPEG and JPEG 2000 tiles are copied, others become
    lossless JPEG 2000. Deterministic, including the UIDs. Raises RefusedError where wsidicomizer is
    missing or does not support the file, or the output exists.
    """
    _check(output, overwrite=overwrite)
    part = hidden_beside(output, ".part")
    part.mkdir(exist_ok=True)
    with holding(part):
        try:
            for left in part.iterdir():  # from a killed run
                left.unlink()
            _convert(source, part, size, metadata)
            check(part)
            _publish(part, output)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return output


def _check(output: Path, *, overwrite: bool) -> None:
    old = hidden_beside(output, ".old")
    if old.exists() and not output.exists():  # killed inside `exchange`, where it is not atomic
        old.rename(output)
    shutil.rmtree(old, ignore_errors=True)
    if not output.exists():
        return
    if not output.is_dir():
        raise RefusedError(f"{output}: is a file; DICOM is written into a folder.")
    others = [each.name for each in output.iterdir() if each.suffix != ".dcm"]
    if others:
        raise RefusedError(f"{output}: holds {others[0]}, which is not DICOM. Choose a new folder.")
    if any(output.iterdir()):
        refuse_existing(output, overwrite=overwrite)


def _publish(part: Path, output: Path) -> None:
    for file in part.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    sync_folder(part)
    if output.exists():
        exchange(part, output)
    else:
        part.rename(output)
    sync_folder(output.parent)


def _convert(source: Path, folder: Path, size: Size, metadata: Metadata) -> None:
    try:
        from pydicom import config

        config.logger.setLevel(logging.ERROR)  # it warns about its next version
        from wsidicom.metadata import CallableUidGenerator
        from wsidicomizer import WsiDicomizer
    except ImportError as error:
        raise RefusedError(
            f"{source}: writing DICOM needs wsidicomizer: pip install 'slidesr[dicom]'"
        ) from error
    try:
        files = WsiDicomizer.convert(
            source,
            folder,
            metadata=_own_metadata(metadata),
            uid_generator=CallableUidGenerator(_uids(source)),
            include_label=False,
            include_overview=False,
            include_thumbnail=False,
            include_confidential=False,
            metadata_post_processor=partial(_add_provenance, size, metadata),
            encoding=_encoding(source),
        )
    except NotImplementedError as error:
        reason = " ".join(str(error).split())
        raise RefusedError(f"{source}: wsidicomizer does not support it: {reason}") from error
    except FileNotFoundError as error:
        if error.errno is not None:
            raise
        raise RefusedError(
            f"{source}: wsidicomizer needs the library libturbojpeg (Debian: libturbojpeg0)"
        ) from error
    for file in map(Path, files):
        _overwrite(file, _NO_TIME)
        if _is_synthetic(metadata.provenance):
            _overwrite(file, _DERIVED)


def _own_metadata(metadata: Metadata) -> Any:
    """What wsidicomizer does not carry over: the objective's power, and a profile without a date.

    DICOM requires a profile of every colour image; sRGB is what viewers assume without one.
    """
    from wsidicom.metadata import Image, Objectives, OpticalPath, Pyramid
    from wsidicomizer.metadata import WsiDicomizerMetadata

    power = metadata.magnification
    path = OpticalPath(
        icc_profile=metadata.icc_profile or srgb_profile(),
        objective=Objectives(objective_power=power) if power else None,
    )
    return WsiDicomizerMetadata(pyramid=Pyramid(Image(), [path]))


def _encoding(source: Path) -> Any:
    """The encoding of tiles that cannot be copied, which also labels the copied ones.

    So it must match the source where DICOM supports that: JPEG, and the JPEG 2000 of Aperio.
    """
    from wsidicom.codec import Jpeg2kSettings, JpegSettings
    from wsidicom.codec.settings import Subsampling

    compression = _compression(source)
    if compression in _UNCOMPRESSED_OR_LOSSLESS:
        return Jpeg2kSettings(levels=[0])  # lossless
    if compression == "APERIO_JP2000_RGB":
        return Jpeg2kSettings(levels=[_QUALITY])
    return JpegSettings(quality=_QUALITY, subsampling=Subsampling.R420)


def _compression(source: Path) -> str | None:
    """The compression of a TIFF by tifffile's name; None for other files."""
    try:
        with tifffile.TiffFile(source) as tiff:
            compression = tiff.pages.first.compression
    except tifffile.TiffFileError:
        return None
    return getattr(compression, "name", None)


def _add_provenance(size: Size, metadata: Metadata, dataset: Dataset, _: Any) -> Dataset:
    """Describes in an upscaled slide how it was computed."""
    # The right attribute is (0008,001C) Synthetic Data. It dates from 2023, and older validators,
    # among them Debian's dciodvfy, reject files with it.
    if _is_synthetic(metadata.provenance):
        dataset.DerivationDescription = plain_text(size, metadata)[:_MAX_TEXT]
        dataset.SeriesDescription = "Synthetic: upscaled by slidesr, not for diagnosis"
    return dataset


def _is_synthetic(provenance: Mapping[str, str]) -> bool:
    return provenance.get("synthetic") == "true"


def _overwrite(path: Path, changes: Mapping[bytes, bytes]) -> None:
    """Replaces patterns in the header by values of the same length."""
    from pydicom import dcmread

    with path.open("r+b") as file:
        dcmread(file, stop_before_pixels=True)
        length = file.tell()
        file.seek(0)
        header = file.read(length)
        for pattern, value in changes.items():
            header = re.sub(pattern, value, header, flags=re.DOTALL)
        file.seek(0)
        file.write(header)


def _uids(source: Path) -> Callable[[], UID]:
    """Generates UIDs from the SHA-256 of the file and a running number."""
    from pydicom.uid import generate_uid

    with source.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    numbers = count()
    return lambda: generate_uid(entropy_srcs=["slidesr", digest, str(next(numbers))])
