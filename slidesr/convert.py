"""A slide into another container: pixels as they are, what is known of them carried over."""

from __future__ import annotations

from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.output.dicom import write_dicom
from slidesr.output.metadata import Metadata
from slidesr.slide import open_slide

_NOT_YET = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".ome.zarr", ".zarr")


def convert(source: Path, output: Path, *, overwrite: bool = False) -> Path:
    """Writes `source` as what the output's name says: any folder is DICOM.

    Raises RefusedError for what cannot be converted, before anything is written.
    """
    with open_slide(source) as slide:
        size = slide.size
        facts = Metadata(slide.mpp, slide.magnification, slide.icc_profile, dict(slide.provenance))
    if not output.parent.is_dir():
        raise RefusedError(f"{output}: there is no folder {output.parent}. Make it first.")
    if output.exists() and output.samefile(source):
        raise RefusedError(f"{output}: is the input itself. Choose another output.")
    if output.name.lower().endswith(_NOT_YET):
        raise RefusedError(f"{output}: only DICOM, which is a folder, can be written by now.")
    if facts.mpp is None:
        raise RefusedError(f"{source}: no pixel size in the file, and DICOM must have one.")
    return write_dicom(source, output, size, facts, overwrite=overwrite)
