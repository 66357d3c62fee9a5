"""TIFFs of every layout, written by tifffile, and in plain numpy what their samples look like."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffWriter

U8: TypeAlias = NDArray[np.uint8]
Samples: TypeAlias = NDArray[Any]

MPP = (0.5, 0.4)  # across and down the stored pixels, in um
ORIENTATION_TAG, COLOUR_MAP_TAG = 274, 320
_UM_PER_CM = 1e4
_SHORT = 3


def written(
    levels: Sequence[Samples],
    *,
    ome: str = "",
    subifds: bool = False,
    orientation: int = 1,
    file: dict[str, Any] | None = None,
    **tags: Any,
) -> bytes:
    """One image with its lower levels, in SubIFDs or as reduced pages.

    `ome` gives the axes of an OME-TIFF, such as YXS. `file` are options of TiffWriter.
    """
    tags["extratags"] = [*tags.get("extratags", ()), *_oriented(orientation)]
    data = BytesIO()
    with TiffWriter(data, ome=bool(ome), **(file or {})) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level,
                subfiletype=min(index, 1),
                subifds=len(levels) - 1 if subifds and not index else None,
                metadata=ome_metadata(ome) if ome and not index else None,
                **(resolution(2**index) | tags),
            )
    return data.getvalue()


def ome_metadata(axes: str, mpp: tuple[float, float] = MPP, **more: Any) -> dict[str, Any]:
    return {"axes": axes, "PhysicalSizeX": mpp[0], "PhysicalSizeY": mpp[1], **more}


def resolution(downsample: float = 1, mpp: tuple[float, float] = MPP) -> dict[str, Any]:
    across, down = (_UM_PER_CM / (um * downsample) for um in mpp)
    return {"resolution": (across, down), "resolutionunit": "CENTIMETER"}


def colour_map(colours: NDArray[np.uint16]) -> dict[str, Any]:
    """The tags of a palette u16[n, 3]; tifffile's own argument takes only 256 colours."""
    values = tuple(int(value) for value in colours.T.ravel())
    return {
        "photometric": "palette",
        "extratags": [(COLOUR_MAP_TAG, _SHORT, len(values), values, True)],
    }


def _oriented(orientation: int) -> list[tuple[Any, ...]]:
    return [(ORIENTATION_TAG, _SHORT, 1, orientation, True)] if orientation != 1 else []


# What is seen


def turned(stored: Samples, orientation: int) -> Samples:
    """The image as the tag Orientation wants it shown, by the table of TIFF 6.0, page 36.

    Row 0 and column 0 as stored are: 1 top, left; 2 top, right; 3 bottom, right; 4 bottom, left;
    5 left, top; 6 right, top; 7 right, bottom; 8 left, bottom.
    """
    shown = stored.swapaxes(0, 1) if orientation > 4 else stored
    if orientation in (3, 4, 7, 8):
        shown = shown[::-1]
    if orientation in (2, 3, 6, 7):
        shown = shown[:, ::-1]
    return np.ascontiguousarray(shown)


def as_rgb(grey: U8) -> U8:
    """u8[h, w] -> u8[h, w, 3]."""
    return np.repeat(grey[..., None], 3, axis=2)


def over_white(rgb: U8, alpha: U8) -> U8:
    """u8[h, w, 3] and u8[h, w], not premultiplied."""
    canvas = Image.new("RGB", rgb.shape[1::-1], "white")
    canvas.paste(Image.fromarray(rgb), mask=Image.fromarray(alpha))
    return np.array(canvas)


def premultiplied_over_white(rgb: U8, alpha: U8) -> U8:
    """u8[h, w, 3], which was multiplied by u8[h, w]."""
    return (rgb.astype(int) + 255 - alpha[..., None]).clip(0, 255).astype(np.uint8)


def by_pillow(samples: U8, mode: str) -> U8:
    """Samples of another colour model, such as CMYK, as Pillow converts them."""
    size = samples.shape[1::-1]
    return np.array(Image.frombytes(mode, size, samples.tobytes()).convert("RGB"))


def windowed(samples: NDArray[np.uint16], low: int, high: int) -> U8:
    """The reference of `Window.to_8_bit`."""
    share = (samples.astype(float) - low) / (high - low)
    return np.asarray(np.rint(share.clip(0, 1) * 255), np.uint8)
