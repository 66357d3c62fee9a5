"""Which places of a slide give patches, which label they get, and which are worth keeping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from shapely import MultiPolygon
from skimage.measure import blur_effect

from slidesr.geometry import Box, Pixels, Size
from slidesr.patches.options import PatchOptions
from slidesr.slide import Frame

TUMOR, NORMAL = "tumor", "normal"
_SKIPPED = "skipped"
_MARGIN = 0.5  # distance of normal patches from lesions, in patches, as outlines are rough
_BATCH = 50_000  # boxes compared with the lesions at once: 20 MB
_STAINED_OD = 0.06  # 13% of the light; means of 4 x 4 px of empty glass stay below 0.02
_MEAN_PX = 4
_GAP_PX = 36  # stained nuclei have tissue between them even if only nuclei are stained


def places(
    frame: Frame,
    tissue: NDArray[np.bool_],
    lesions: MultiPolygon | None,
    options: PatchOptions,
    name: str,
) -> dict[str, list[Box]]:
    """Label -> boxes of possible patches in random order, in frame pixels.

    The boxes are cells of one grid, so they never overlap, with enough tissue in `tissue`, the mask
    bool[h, w] of the whole slide. A patch is tumour if its centre lies in a lesion (level-0 pixels)
    and normal if no lesion lies within half a patch of it; others are skipped.
    """
    size_px = options.size_px
    cells = np.argwhere(tissue_shares(tissue, frame.size, size_px) >= options.min_tissue)
    corners = np.random.default_rng(options.number(name)).permutation(cells[:, ::-1] * size_px)
    if lesions is None:
        return {options.unannotated: _boxes(corners, size_px)}
    labels = _labels(corners * frame.downsample, size_px * frame.downsample, lesions)
    found = {label: _boxes(corners[labels == label], size_px) for label in (TUMOR, NORMAL)}
    return {label: boxes for label, boxes in found.items() if boxes}


def tissue_shares(mask: NDArray[np.bool_], frame: Size, cell_px: int) -> NDArray[np.float64]:
    """The share of tissue in each whole cell of the frame, 0..1: f64[rows, columns].

    >>> tissue_shares(np.array([[True, False, False]]), Size(12, 4), cell_px=4)
    array([[1., 0., 0.]])
    >>> tissue_shares(np.array([[True, False]]), Size(12, 4), cell_px=4)
    array([[1. , 0.5, 0. ]])
    """
    sums = np.pad(mask, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    down, along = mask.shape[0] * cell_px / frame.height, mask.shape[1] * cell_px / frame.width
    y = np.arange(frame.height // cell_px + 1) * down
    x = np.arange(frame.width // cell_px + 1) * along
    # Between its corners a summed-area table is bilinear, so this is exact.
    table = ndimage.map_coordinates(sums, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    return np.asarray(np.diff(np.diff(table, axis=0), axis=1) / (down * along))


def tissue_share(pixels: Pixels, glass: tuple[int, int, int]) -> float:
    """The share of u8[h, w, 3] that is darker or more coloured than the slide's glass.

    Gaps of up to 36 px between stained parts count as stained.
    """
    means = np.asarray(Image.fromarray(pixels).reduce(_MEAN_PX), np.float32)
    density = np.log10(np.array(glass, np.float32) / means.clip(1)).max(axis=-1)
    reach = _GAP_PX // _MEAN_PX
    grown = ndimage.maximum_filter(density > _STAINED_OD, reach, mode="nearest")
    return float(ndimage.minimum_filter(grown, reach, mode="nearest").mean())


def blur(pixels: Pixels) -> float:
    """The blur of u8[h, w, 3], 0..1: how little further blurring changes it (Crete 2007).

    Unlike the variance of the Laplacian, which differs tenfold between sharp slides of two stains,
    it does not depend on contrast. https://doi.org/10.1117/12.702790
    """
    strength: float = blur_effect(pixels, channel_axis=-1)  # type: ignore[no-untyped-call]
    return strength


def _labels(corners: NDArray[np.float64], side: float, lesions: MultiPolygon) -> NDArray[np.str_]:
    """The label of each square [n, x and y] of level-0 pixels."""
    shapely.prepare(lesions)
    inside = shapely.contains_xy(lesions, corners + side / 2)
    near = np.concatenate(list(_near(corners, side, lesions)))
    return np.select([inside, ~near], [TUMOR, NORMAL], _SKIPPED)


def _near(
    corners: NDArray[np.float64], side: float, lesions: MultiPolygon
) -> Iterator[NDArray[np.bool_]]:
    for part in np.array_split(corners, 1 + len(corners) // _BATCH):
        squares = shapely.box(*part.T, *(part + side).T)
        yield shapely.dwithin(lesions, squares, side * _MARGIN)


def _boxes(corners: NDArray[np.int64], size_px: int) -> list[Box]:
    return [Box(x, y, size_px, size_px) for x, y in corners.tolist()]
