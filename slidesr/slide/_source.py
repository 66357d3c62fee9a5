"""What every reader of a slide file gives: facts about it, and the pixels of its levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from PIL import Image

from slidesr.errors import RefusedError, printable
from slidesr.geometry import Box, Mpp, Pixels, Size

RGB: TypeAlias = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class Level:
    """One level of the pyramid; `downsample` is level-0 pixels per pixel of this level.

    `tile` is the size in which it is stored, where the file tells it.
    """

    size: Size
    downsample: float
    tile: Size | None = None


@dataclass(frozen=True)
class About:
    """What a file says of itself; sizes, `mpp`, `magnification` and `bounds` are level 0's.

    `properties` are all words of the file by name, private ones too; `provenance` is what slidesr
    wrote of how it made the file.
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


class Source(Protocol):
    """An open slide file. Reads from several threads at once.

    A SlidesrError from `read` may leave it of no use: open it anew.
    """

    @property
    def about(self) -> About: ...

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box that lies inside the level, a pure function of their position."""
        ...

    def close(self) -> None: ...


def levels_from_sizes(
    sizes: Sequence[Size], tiles: Sequence[Size | None] | None = None
) -> tuple[Level, ...]:
    """Levels whose downsample is the mean of both sides' ratios, as OpenSlide has it.

    >>> [level.downsample for level in levels_from_sizes([Size(300, 250), Size(75, 62)])]
    [1.0, 4.016129032258064]
    """
    first = sizes[0]
    return tuple(
        Level(size, (first.width / size.width + first.height / size.height) / 2, tile)
        for size, tile in zip(sizes, tiles or [None] * len(sizes), strict=True)
    )


def over_background(image: Image.Image, background: RGB) -> Pixels:
    """The image without its alpha channel, if it has one, laid on a plain colour."""
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):  # nearly every read, and three times faster
        return np.array(rgba.convert("RGB"))
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(rgba, mask=alpha)
    return np.array(canvas)


def unreadable(path: Path, reason: object) -> RefusedError:
    """The error for a file that cannot be opened; `reason` may be another library's words."""
    return RefusedError(
        f"{path}: not a slide or image that slidesr can read: {printable(str(reason))}"
    )
