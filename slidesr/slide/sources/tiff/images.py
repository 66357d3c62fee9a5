"""Which images a TIFF has, which of them is the slide, and which are left out.

An image is a full directory with its pyramid: its SubIFDs, or the reduced directories of the main
chain that fit below it. OME-XML says which directories are images, and what their planes mean; in
other files each directory that does not declare itself reduced is one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tifffile import TiffFile, TiffPage

from slidesr.errors import printable
from slidesr.geometry import Mpp, Size
from slidesr.slide._metadata import Resolution, mpp_from_tiff_tags, mpp_from_um
from slidesr.slide._ome import MAX_DIRECTORIES, OmeImage, parse_ome
from slidesr.slide._units import um_from_unit
from slidesr.slide.sources.source import Candidate, Choice, refuse_tie, unreadable, warn_of_left_out
from slidesr.slide.sources.tiff.directory import Alpha, Colour, Directory
from slidesr.slide.sources.tiff.pyramids import (
    is_undeclared_level,
    kind_of,
    page_name,
    pyramid,
    reduced_below,
    whole_page,
)

_log = logging.getLogger(__name__)
_RESOLUTION_TAG = "XResolution"
_NO_UNIT = 1  # of ResolutionUnit; ImageJ says in its description what it counts in
_IMAGEJ_UNITS = re.compile(r"^[xy]?unit=(.+)$", re.M)

LevelParts = tuple[Directory, ...]
"""The directory of a level, or three of grey that are R, G and B."""


@dataclass(frozen=True)
class TiffImage:
    """An image of a TIFF; its levels are the largest first, all as stored.

    `problem` says why it cannot be read correctly, and is empty where it can.
    """

    name: str
    levels: tuple[LevelParts, ...]
    resolution: Resolution
    problem: str = ""
    conversions: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """The size of level 0, as stored."""
        return self.levels[0][0].size

    def has_level(self, other: TiffImage) -> bool:
        """Whether another image is a level of this one: some writers declare each as an image."""
        own = {each.page.offset for level in self.levels for each in level}
        return other.levels[0][0].page.offset in own

    @property
    def candidate(self) -> Candidate:
        title = f"{printable(self.name) or 'unnamed'} ({self.size} px)"
        return Candidate(self.name, self.size, title)


@dataclass(frozen=True)
class Chosen:
    """The image that is the slide, and why."""

    image: TiffImage
    choice: Choice


def choose_image(path: Path, tiff: TiffFile) -> Chosen:
    """The largest image whose name is not that of a label, a macro or a thumbnail.

    Raises RefusedError where it cannot be read correctly, or two are equally large.
    """
    images = _images(path, tiff)
    if not images:
        raise unreadable(path, "it holds none of the images that its OME-XML describes")
    image, *rest = sorted(images, key=lambda image: image.candidate.rank, reverse=True)
    best, others = image.candidate, [each.candidate for each in rest if not image.has_level(each)]
    refuse_tie(path, best, others, "Extract one, for example with tiffsplit")
    if image.problem:
        raise unreadable(path, image.problem)
    warn_of_left_out(path, best, others)
    return Chosen(image, _choice(image, others))


def _choice(image: TiffImage, others: Sequence[Candidate]) -> Choice:
    why = f"the largest of {len(others) + 1} images" if others else "the only image"
    return Choice(
        image=printable(image.name),
        why=why,
        conversions=(*image.levels[0][0].conversions, *image.conversions),
        left_out=tuple(other.title for other in others),
    )


def _images(path: Path, tiff: TiffFile) -> list[TiffImage]:
    if len(tiff.pages) > MAX_DIRECTORIES:
        raise unreadable(path, f"it has over {MAX_DIRECTORIES} directories")
    chain = [Directory.of(whole_page(page)) for page in tiff.pages]
    ome = parse_ome(path, tiff.ome_metadata) if tiff.ome_metadata else ()
    if ome:
        return list(_ome_images(path, ome, chain))
    return list(_plain_images(path, tiff, chain))


# ---- OME-TIFF ------------------------------------------------------------------------------------


def _ome_images(
    path: Path, images: Sequence[OmeImage], chain: Sequence[Directory]
) -> Iterator[TiffImage]:
    """The images that OME-XML describes, of which the file has a directory."""
    reduced = reduced_below(chain)
    for ome in images:
        start = next(iter(ome.directories(samples=1)), len(chain))
        if start >= len(chain):
            continue
        here = [chain[at] for at in ome.directories(chain[start].samples) if at < len(chain)]
        pyramids = [pyramid(each, reduced[each.page.offset]) for each in here]
        resolution = _ome_resolution(path, ome, chain[start])
        image = TiffImage(ome.name, tuple((level,) for level in pyramids[0]), resolution)
        problem = _ome_problem(ome, len(here), ome.planes(chain[start].samples))
        if problem or len(here) == 1:
            yield replace(image, problem=problem or _first_problem(image.levels))
        else:
            yield _merged(image, pyramids, ome.primaries)


def _ome_resolution(path: Path, ome: OmeImage, first: Directory) -> Resolution:
    """Without pixel size where its XML is of an image of another size, as that before a resize."""
    size = first.size
    if ome.size_x in (None, size.width) and ome.size_y in (None, size.height):
        return ome.resolution
    _log.warning(
        "%s: its OME-XML describes %s x %s px, not %s, so its pixel size is unknown",
        *(path, ome.size_x, ome.size_y, size),
    )
    return Resolution()


def _ome_problem(ome: OmeImage, here: int, planes: int) -> str:
    """Why an image of so many planes, of which some are here, cannot be one picture."""
    if ome.is_elsewhere:
        return "a part of it lies in another file, which its OME-XML names. Join them first"
    if ome.size_z > 1:
        return f"it has {ome.size_z} focal planes. Extract one, for example with bfconvert -z 0"
    if ome.size_t > 1:
        return (
            f"it has {ome.size_t} time points. Extract one, for example with bfconvert -timepoint 0"
        )
    if here < planes:
        return f"its OME-XML describes {planes} planes, and the file holds {here}"
    if planes > 1 and not (planes == 3 and ome.primaries):
        return (
            f"it has {planes} channels of grey, which it does not call red, green and blue."
            " Merge them to RGB, or extract one, for example with bfconvert -channel 0"
        )
    return ""


def _merged(image: TiffImage, pyramids: Sequence[list[Directory]], primaries: str) -> TiffImage:
    """An image whose channels are directories of grey."""
    ordered = [pyramids[primaries.index(name)] for name in "RGB"]
    levels = tuple(zip(*ordered, strict=False))
    first = levels[0]
    alike = all(
        len({(each.size, each.tile, each.bits, each.orientation) for each in level}) == 1
        and all(each.colour is Colour.GREY and each.samples == 1 for each in level)
        for level in levels
    )
    problem = _first_problem(levels)
    if not alike:
        problem = problem or f"its channels differ in more than colour: {first[0].size} px"
    as_rgb = tuple(
        (replace(level[0], colour=Colour.RGB, alpha=Alpha.NONE), *level[1:]) for level in levels
    )
    merged = "channels named red, green and blue merged"
    return replace(image, levels=as_rgb, problem=problem, conversions=(merged,))


# ---- other TIFFs ---------------------------------------------------------------------------------


def _plain_images(path: Path, tiff: TiffFile, chain: Sequence[Directory]) -> Iterator[TiffImage]:
    """The full directories of the main chain with their pyramids, the slide's first."""
    full = [each for each in chain if not (each.is_reduced or each.is_mask)] or list(chain[:1])
    full.sort(key=lambda each: (kind_of(each.page) != "", -each.size.area))
    undeclared = [each for each in full[1:] if is_undeclared_level(full[0], each)]
    undeclared_offsets = {each.page.offset for each in undeclared}
    reduced = reduced_below([each for each in chain if each.page.offset not in undeclared_offsets])
    for first in full:
        if first.page.offset in undeclared_offsets:
            continue
        below = reduced[first.page.offset] + (undeclared if first is full[0] else [])
        levels = pyramid(first, below)
        image = TiffImage(
            _name(first.page),
            tuple((level,) for level in levels),
            Resolution(_mpp(path, first.page)),
        )
        problem = _hidden_planes(tiff, first) or _first_problem(image.levels)
        yield replace(image, problem=problem)


def _hidden_planes(tiff: TiffFile, first: Directory) -> str:
    """The problem of planes that only the metadata of ImageJ, tifffile or a microscope shows."""
    series = next((s for s in tiff.series if s.keyframe.offset == first.page.offset), None)
    if series is None or not (tiff.is_imagej or tiff.is_shaped or tiff.is_lsm or tiff.is_stk):
        return ""
    planes = series.size // max(1, first.size.area * first.samples)
    if planes < 2:
        return ""
    return f"it holds {planes} planes ({series.axes}), and slidesr reads one picture. Extract one"


def _name(page: TiffPage) -> str:
    """The page's name, or the kind of image that its description starts with."""
    return kind_of(page) or page_name(page)


def _mpp(path: Path, page: TiffPage) -> Mpp | None:
    if _RESOLUTION_TAG not in page.tags:  # tifffile would return 1 pixel per inch
        return None
    x, y = page.resolution
    um = _imagej_unit_um(page)
    if um and page.resolutionunit == _NO_UNIT and x > 0 and y > 0:
        return mpp_from_um(path, um / x, um / y)
    return mpp_from_tiff_tags(path, x, y, int(page.resolutionunit))


def _imagej_unit_um(page: TiffPage) -> float | None:
    """The unit that the resolution of a file of ImageJ is counted in."""
    units = _IMAGEJ_UNITS.findall(page.description) if page.is_imagej else []
    # ImageJ escapes what is not ASCII, and names the units of y and z where they are others.
    return um_from_unit(units[0].replace(r"\u00B5", "µ")) if len(units) == 1 else None


def _first_problem(levels: Sequence[LevelParts]) -> str:
    found = (each.problem for level in levels for each in level)
    return next((problem for problem in found if problem), "")
