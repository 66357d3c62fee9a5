"""The protocol of all readers of slide files: metadata, and the pixels of each level."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidesr.errors import RefusedError, SlidesrError, printable
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.imaging.window import Window, WindowChoice

_log = logging.getLogger(__name__)
_ASSOCIATED = re.compile(
    r"(?<![a-z])(label|macro|thumbnail|overview|barcode)(?=image|[^a-z]|$)", re.I
)

RGB: TypeAlias = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class Level:
    """One level of the pyramid; `downsample` is level-0 pixels per pixel of this level.

    `tile` is the size of its stored tiles, if known.
    """

    size: Size
    downsample: float
    tile: Size | None = None


@dataclass(frozen=True)
class Choice:
    """Which image of a file is read, why, how its samples become RGB, and what is left out.

    `image` is empty where the file has one image without a name. For `slidesr info`.
    """

    image: str = ""
    why: str = "the only image"
    conversions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """The metadata of a file; sizes, `mpp`, `magnification` and `bounds` are those of level 0.

    `properties` are all properties of the file, including private ones; `provenance` is what
    slidesr recorded about a file of its own. `window` is None where the samples have 8 bits.
    """

    vendor: str
    levels: tuple[Level, ...]
    mpp: Mpp | None = None
    magnification: float | None = None
    icc_profile: bytes | None = None
    background: RGB = WHITE
    bounds: Box | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    choice: Choice = Choice()
    window: Window | None = None


class AboveWindowError(SlidesrError):
    """A sample is above the window that was found automatically. No damage, so never filled."""


class Source(Protocol):
    """An open slide file. Reads from several threads at once.

    After a SlidesrError from `read` it may be unusable: reopen it.
    """

    @property
    def about(self) -> About: ...

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level; each depends on its position alone."""
        ...

    def close(self) -> None: ...


def associated_kind(name: str) -> str:
    """The kind of associated image, such as a label, that a name says; empty for other names.

    >>> [associated_kind(name) for name in ("S1_Label", "MacroImage", "relabelled", "label1")]
    ['label', 'macro', '', 'label']
    """
    found = _ASSOCIATED.search(name)
    return found.group().lower() if found else ""


@dataclass(frozen=True)
class Candidate:
    """An image of a file that may be the slide; `title` is what messages call it."""

    name: str
    size: Size
    title: str

    @property
    def rank(self) -> tuple[bool, int]:
        """The highest is the slide, unless two have it."""
        return not associated_kind(self.name), self.size.area


def refuse_tie(path: Path, best: Candidate, others: Sequence[Candidate], cure: str) -> None:
    """Raises RefusedError where the next image, by rank, may as well be the slide."""
    if others and others[0].rank == best.rank:
        raise unreadable(
            path,
            f"it holds several images of {best.size} px, {best.title} and {others[0].title}, and"
            f" nothing says which is the slide. {cure}",
        )


def warn_of_left_out(path: Path, best: Candidate, others: Sequence[Candidate]) -> None:
    """Warns of each image that is left out, but for labels, macros and thumbnails if smaller."""
    for other in others:
        if not associated_kind(other.name) or other.size.area > best.size.area:
            _log.warning(
                "%s: holds several images; %s is read, not %s",
                *(path.name, best.title, other.title),
            )


def levels_from_sizes(
    sizes: Sequence[Size], tiles: Sequence[Size | None] | None = None
) -> tuple[Level, ...]:
    """Levels whose downsample is the mean of both sides' ratios, as in OpenSlide.

    >>> [level.downsample for level in levels_from_sizes([Size(300, 250), Size(75, 62)])]
    [1.0, 4.016129032258064]
    """
    first = sizes[0]
    return tuple(
        Level(size, (first.width / size.width + first.height / size.height) / 2, tile)
        for size, tile in zip(sizes, tiles or [None] * len(sizes), strict=True)
    )


def over_background(image: Image.Image, background: RGB) -> Pixels:
    """The image composited over a plain colour; RGB whatever its mode."""
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):  # nearly every read; three times faster
        return np.array(rgba.convert("RGB"))
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(rgba, mask=alpha)
    return np.array(canvas)


def unreadable(path: Path, reason: object) -> RefusedError:
    """The error for a file that cannot be opened; `reason` may come from another library."""
    return RefusedError(f"{path}: not a slide or image that slidesr can read: {_sentence(reason)}")


def unreadable_box(path: Path, level: int, box: Box, reason: object) -> SlidesrError:
    """The error for pixels that cannot be read; `reason` may come from another library."""
    kind = AboveWindowError if isinstance(reason, AboveWindowError) else SlidesrError
    return kind(
        f"{path}: level {level} cannot be read at x {box.x}, y {box.y} of that level:"
        f" {_sentence(reason)}"
    )


def chosen_window(path: Path, choice: WindowChoice, largest_sample: Callable[[], int]) -> Window:
    """The window for samples of 16 bits. Raises RefusedError where none was given."""
    if choice is None:
        raise RefusedError(
            f"{path}: its samples have 16 bits. Say which of them become black and white, for"
            " example --window 0,4095, or --window auto for the range of bits that they use. With"
            " it `slidesr convert` writes a slide of 8 bits."
        )
    return Window.of_bits(largest_sample()) if choice == "auto" else choice


def refuse_window(path: Path, choice: WindowChoice) -> None:
    """Raises RefusedError for a window that was given for samples of 8 bits."""
    if isinstance(choice, Window):
        raise RefusedError(f"{path}: its samples have 8 bits, so --window {choice} has no meaning.")


def refuse_above(window: Window, colours: NDArray[Any]) -> None:
    """Raises AboveWindowError for samples that would all become white, though none should."""
    largest = int(colours.max())
    if largest > window.high:
        raise AboveWindowError(
            f"a sample of {largest} is above the automatic window {window}. Give a larger one, for"
            f" example --window {Window.of_bits(largest)}"
        )


def _sentence(reason: object) -> str:
    return f"{printable(str(reason)).rstrip('.')}."
