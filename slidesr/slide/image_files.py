"""Reads plain images and folders of them, for training and benchmarks."""

from __future__ import annotations

from pathlib import Path

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Pixels, Size
from slidesr.runtime.paths import check_file, is_tiff
from slidesr.slide._slide import open_slide
from slidesr.slide.sources.by_pillow import opened_image, shown_size

_SUFFIXES = {".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}


def image_paths(folder: Path) -> list[Path]:
    """All images below a folder, sorted; raises RefusedError if there are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise RefusedError(f"{folder}: no images here ({', '.join(sorted(_SUFFIXES))})")
    return paths


def group_of(path: Path, folder: Path) -> str:
    """The data set an image belongs to: its top folder inside `folder`, else `folder` itself."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else folder.name


def image_size(path: Path) -> Size:
    """The size as shown; of plain images only the header is read. Raises what `read_rgb` does."""
    check_file(path)
    if is_tiff(path):
        with open_slide(path) as slide:
            return slide.size
    with opened_image(path) as image:
        return shown_size(image)


def read_rgb(path: Path) -> Pixels:
    """Reads u8[h, w, 3] in 0..255, turned and converted as slides are.

    Raises RefusedError for what is not a readable image of 8 bits.
    """
    try:
        with open_slide(path) as image:
            return image.frame().read(image.size.box)
    except SlidesrError as error:  # a broken tile is bad input here
        raise RefusedError(str(error)) from error
