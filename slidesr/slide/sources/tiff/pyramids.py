"""The pyramids of a TIFF: which directories are levels of which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from tifffile import TiffPage

from slidesr.geometry import Size
from slidesr.slide.sources.source import associated_kind
from slidesr.slide.sources.tiff.directory import Directory

_PAGE_NAME = 285
_MOST_LETTERS = 200
_LEVELS_OFF_PX = 2  # of a level's side: some writers round up, some down


def whole_page(page: object) -> TiffPage:
    if not isinstance(page, TiffPage):
        raise TypeError(f"a directory is a {type(page).__name__}")
    return page


def kind_of(page: TiffPage) -> str:
    """The kind of image beside a slide that a page is by its name; else empty."""
    return associated_kind(page_name(page) or page.description[:_MOST_LETTERS])


def page_name(page: TiffPage) -> str:
    name = page.tags.valueof(_PAGE_NAME, "")
    return name if isinstance(name, str) else ""


def is_undeclared_level(first: Directory, other: Directory) -> bool:
    """Whether a directory that does not say so is a level: its size is a whole fraction."""
    factor = round(_factor(first.size, other.size))
    return (
        factor >= 2
        and kind_of(first.page) == kind_of(other.page)
        and (first.colour, first.bits, first.samples, first.is_tiled)
        == (other.colour, other.bits, other.samples, other.is_tiled)
        and _fits(first.size, other.size, factor)
    )


def reduced_below(chain: Sequence[Directory]) -> Mapping[int, list[Directory]]:
    """The reduced directories of the main chain, by the offset of the one that they belong to.

    That is the last full one before them that they fit below, or else the first after them.
    """
    below: defaultdict[int, list[Directory]] = defaultdict(list)
    full = [(at, each) for at, each in enumerate(chain) if not (each.is_reduced or each.is_mask)]
    full = full or [(0, chain[0])]
    for at, each in enumerate(chain):
        if not each.is_reduced:
            continue
        before = (first for place, first in reversed(full) if place < at)
        after = (first for place, first in full if place > at)
        owner = next((first for first in (*before, *after) if _is_below(first, each)), None)
        if owner is not None:
            below[owner.page.offset].append(each)
    return below


def _is_below(first: Directory, level: Directory) -> bool:
    """Whether a directory may be a level of another, by its size."""
    return level.size.area < first.size.area and _fits(
        first.size, level.size, _factor(first.size, level.size)
    )


def pyramid(first: Directory, reduced: Sequence[Directory]) -> list[Directory]:
    """A directory with its SubIFDs, or else with the reduced directories of the main chain.

    Not with those of another depth or orientation, grey below colours, masks and labels.
    """
    subifds = [Directory.of(whole_page(page)) for page in first.page.pages or ()]
    below = [
        each
        for each in subifds or reduced
        if not each.is_mask
        and (each.orientation, each.bits, each.is_grey)
        == (first.orientation, first.bits, first.is_grey)
        and kind_of(each.page) in ("", kind_of(first.page))
    ]
    below.sort(key=lambda each: -each.size.area)
    levels = [first, *below]
    return [first, *(b for a, b in pairwise(levels) if b.size != a.size)]


def _factor(first: Size, level: Size) -> float:
    """By the longer sides: of a narrow slide the shorter ones are mostly rounding."""
    return max(first.width, first.height) / max(level.width, level.height)


def _fits(first: Size, level: Size, factor: float) -> bool:
    """Whether both sides are shrunk by one factor, give or take rounding."""
    return (
        abs(level.width - first.width / factor) <= _LEVELS_OFF_PX
        and abs(level.height - first.height / factor) <= _LEVELS_OFF_PX
    )
