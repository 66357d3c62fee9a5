"""Reads plain images and folders of them, for training and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels, Size
from slidesr.runtime.paths import IMAGE_FORMATS, check_file

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
    """Reads only the header; raises RefusedError if it is not an image."""
    with _opened(path) as image:
        return Size(*image.size)


def read_rgb(path: Path) -> Pixels:
    """Reads u8[h, w, 3] in 0..255; raises RefusedError if it cannot be decoded."""
    with _opened(path) as image:
        return np.array(image.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    check_file(path)
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RefusedError(f"{path}: not a readable image: {error}") from error
