"""The slides to show: one, or one before and after in register, with facts about them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from slidesr.errors import RefusedError
from slidesr.imaging.window import WindowChoice
from slidesr.runtime.bundled_files import bundled_folder
from slidesr.slide import Slide, open_slide
from slidesr.view.tiles import TILE_PX, Tiles

_TISSUE_PX = 1024
_TISSUE_RGBA, _BORDER_RGBA = (56, 189, 148, 40), (56, 189, 148, 230)
_OUTPUT_TILE_PX = 512


@dataclass(frozen=True)
class Placed:
    """A slide and its position, in widths of the last slide, which is at 0, 0."""

    slide: Slide
    tiles: Tiles
    role: str  # before or after
    x: float = 0.0
    y: float = 0.0
    width: float = 1.0


@dataclass(frozen=True)
class Exhibit:
    """One or two slides; the last is `after` if it was upscaled from the first."""

    placed: tuple[Placed, ...]

    def facts(self) -> dict[str, Any]:
        """All data of the page, for JSON; file names, never paths."""
        last = self.placed[-1].slide
        return {
            "images": [_image_facts(each) for each in self.placed],
            "um_per_unit": last.mpp.x * last.size.width if last.mpp else None,
            "magnification": _magnification(last),
            "width_px": last.size.width,
            "height_px": last.size.height,
            "grid_px": _OUTPUT_TILE_PX,
            "synthetic": any("synthetic" in each.slide.provenance for each in self.placed),
            "provenance": [[key, value] for key, value in last.provenance.items()],
            "card": _card(last.provenance.get("model", "")),
        }

    def tissue_png(self) -> bytes:
        """The tissue of the first slide, as a translucent overlay of the whole slide."""
        mask = self.placed[0].slide.find_tissue(_TISSUE_PX).mask
        veil = np.zeros((*mask.shape, 4), np.uint8)
        veil[mask] = _TISSUE_RGBA
        veil[mask & ~ndimage.binary_erosion(mask, iterations=2)] = _BORDER_RGBA
        stored = io.BytesIO()
        Image.fromarray(veil).save(stored, "png")
        return stored.getvalue()


@contextmanager
def exhibit(paths: Sequence[Path], window: WindowChoice = None) -> Iterator[Exhibit]:
    """Opens one or two slides, converted to sRGB if they have an ICC profile.

    The last is the one that slidesr upscaled, by default the second. `window` is for the first,
    where it has samples of 16 bits. Raises RefusedError.
    """
    if not 1 <= len(paths) <= 2:
        raise RefusedError("Give one slide, or two: before and after.")
    with ExitStack() as stack:
        windows = (window, None)
        slides = [stack.enter_context(_opened(*each)) for each in zip(paths, windows, strict=False)]
        if len(slides) == 2 and slides[0].provenance and not slides[1].provenance:
            slides.reverse()
        yield Exhibit(tuple(_placed(slides)))


def _opened(path: Path, window: WindowChoice) -> Slide:
    slide = open_slide(path, window=window)
    if slide.icc_profile is None:
        return slide
    slide.close()
    return open_slide(path, window=window, icc="srgb")


def _placed(slides: Sequence[Slide]) -> Iterator[Placed]:
    *before, after = slides
    for slide in before:
        x, y, width = _place(slide, after)
        yield Placed(slide, Tiles(slide), "before", x, y, width)
    role = "after" if before or after.provenance else "slide"
    yield Placed(after, Tiles(after), role)


def _place(before: Slide, after: Slide) -> tuple[float, float, float]:
    """The position and width of `before` in register with `after`; congruent if unknown.

    The provenance states the region, in pixels of the level that was read, and the scale.
    """
    provenance = after.provenance
    try:
        x, y, width, _ = map(int, provenance["source_region"].split(","))
        downsample = before.levels[int(provenance["source_level"])].downsample
        if before.mpp and provenance["source_mpp"] != "unknown":
            downsample = float(provenance["source_mpp"].split()[0]) / before.mpp.x
    except (KeyError, ValueError, IndexError):
        return 0.0, 0.0, 1.0
    if not (width > 0 and downsample > 0):
        return 0.0, 0.0, 1.0
    return -x / width, -y / width, before.size.width / downsample / width


def _image_facts(placed: Placed) -> dict[str, Any]:
    slide = placed.slide
    return {
        "id": placed.role,
        "name": slide.path.name,
        "width": slide.size.width,
        "height": slide.size.height,
        "tile_px": TILE_PX,
        "last": placed.tiles.last,
        "mpp": slide.mpp.mean if slide.mpp else None,
        "magnification": slide.magnification,
        "x": placed.x,
        "y": placed.y,
        "w": placed.width,
    }


def _magnification(slide: Slide) -> float | None:
    if slide.magnification is not None:
        return slide.magnification
    return 10 / slide.mpp.mean if slide.mpp else None


def _card(model: str) -> str | None:
    """The card of a shipped model; older provenance adds more after the name and a comma."""
    name = model.partition(",")[0]
    card = bundled_folder("_models", "models") / f"{name}.md"
    is_shipped = name.replace("-", "").isalnum() and card.is_file()
    return card.read_text(encoding="utf-8") if is_shipped else None


def facts_json(shown: Exhibit) -> str:
    """The facts as JSON that is safe inside an HTML script element."""
    return json.dumps(shown.facts()).replace("<", "\\u003c").replace("&", "\\u0026")
