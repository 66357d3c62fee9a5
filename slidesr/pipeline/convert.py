"""Copies a slide into another container, with its pixel size, magnification and profile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from slidesr.errors import RefusedError
from slidesr.imaging.window import WindowChoice
from slidesr.output.copy import copy_pixels
from slidesr.output.dicom import write_dicom
from slidesr.output.format import SUFFIXES, Format
from slidesr.output.metadata import Metadata
from slidesr.output.staging import Target, identity_of
from slidesr.output.writer import check_output
from slidesr.runtime.dicom_folder import slide_file
from slidesr.runtime.names import check_name
from slidesr.slide import Slide, open_slide
from slidesr.tiling import TilePlan

_THUMBNAIL_PX = 512
_RECOMPRESSED = 4.0  # grey levels; tiles that are copied differ by less than 1
OnBlocks = Callable[[int, int], None]
"""A callback for (done, total) blocks."""


def convert(
    source: Path,
    output: Path,
    format_: Format | None = None,
    report: OnBlocks = lambda done, of: None,
    *,
    window: WindowChoice = None,
    overwrite: bool = False,
) -> Path:
    """Writes `source` in the container that the output's name implies; a plain folder is DICOM.

    DICOM copies the tiles as they are stored and has no `format_`; the others decode level 0 and
    build their pyramid anew, and resume where they were stopped. `window` is for 16-bit samples.
    Raises RefusedError for what cannot be converted, before anything is written.
    """
    check_name(output)
    with open_slide(source, window=window) as slide:
        if output.name.lower().endswith(SUFFIXES):
            check_output(output, source, overwrite=overwrite)
            _copy(slide, output, format_ or Format(), report, overwrite=overwrite)
            return output
        size, facts = slide.size, _facts(slide)
        _check_copyable(slide)
    if format_ is not None:
        raise RefusedError(f"{output}: a folder is DICOM, which keeps tiles as they are stored.")
    if not output.parent.is_dir():
        raise RefusedError(f"{output}: there is no folder {output.parent}. Make it first.")
    if output.exists() and source.exists() and output.samefile(source):
        raise RefusedError(f"{output}: is the input itself. Choose another output.")
    if facts.mpp is None:
        raise RefusedError(f"{source}: no pixel size in the file, and DICOM must have one.")
    check = partial(_check_same_picture, source)
    return write_dicom(slide_file(source), output, size, facts, check, overwrite=overwrite)


def _check_copyable(slide: Slide) -> None:
    """Refuses a slide whose stored tiles, which DICOM copies, are not what slidesr shows."""
    choice = slide.choice
    if choice.conversions or slide.window:
        how = ", ".join(choice.conversions) or f"window {slide.window}"
        raise RefusedError(
            f"{slide.path}: DICOM copies tiles as they are stored, and these are not plain RGB"
            f" ({how}). Convert it to .ome.tif first, and that to DICOM."
        )


def _check_same_picture(source: Path, folder: Path) -> None:
    """Refuses DICOM files that do not show the slide: wsidicomizer decides by itself what it is."""
    with open_slide(source) as slide, open_slide(folder) as copy:
        is_same = slide.size == copy.size and _off(slide, copy) <= _RECOMPRESSED
    if not is_same:
        raise RefusedError(
            f"{source}: wsidicomizer would write another picture than this slide's."
            " Convert it to .ome.tif first, and that to DICOM."
        )


def _off(slide: Slide, copy: Slide) -> float:
    """The mean difference of two slides of one size, in grey levels."""
    first, second = (each.thumbnail(_THUMBNAIL_PX) for each in (slide, copy))
    return float(np.abs(first.astype(np.int16) - second).mean())


def _facts(slide: Slide) -> Metadata:
    provenance = {**slide.provenance, **slide.window_note}
    return Metadata(slide.mpp, slide.magnification, slide.icc_profile, provenance)


def _copy(
    slide: Slide, output: Path, format_: Format, report: OnBlocks, *, overwrite: bool
) -> None:
    plan = TilePlan(slide.size.box, scale=1, window_px=1)
    facts, frame = _facts(slide), slide.frame()
    identity = identity_of({"slide": slide.stamp, "format": format_, "metadata": facts})
    needed = int(slide.size.area * format_.bytes_per_px(output))
    target = Target(output, plan, facts, slide.background, overwrite, identity, needed)
    copy_pixels(target, format_, frame.read, lambda done: report(done, plan.block_count))
