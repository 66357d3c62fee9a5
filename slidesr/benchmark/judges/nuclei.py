"""Nuclei that an upscaled image preserves, hallucinates or loses, by a classical detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.morphology import disk
from skimage.segmentation import watershed

from slidesr.geometry import Pixels

_BLUR_UM = 1.0
_MIN_AREA_UM2 = 12.0  # a small lymphocyte has about 25
_MIN_DISTANCE_UM = 2.5  # between the centres of two nuclei
_MATCH_UM = 3.0  # Sirinukunwattana et al. 2016, IEEE TMI 35:1196: 6 px at 20x
_DEFAULT_UM_PER_PX = 0.25

# Upper bounds of the areas, in um2. Small is up to a circle of 8 um across: lymphocytes, whose
# nuclei have about 7 um. Large is from 11.3 um on: 1.5 red blood cells of 7.5 um, where the grades
# of DCIS begin (Consensus Conference on the classification of DCIS 1997, Cancer 80:1798).
SIZES = {"small": 50.0, "medium": 100.0, "large": np.inf}
COUNTS = ("high", "kept", "found", "invented", "merged", "split", "area_change")  # per size

_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one image; that at index i of the arrays has the number i + 1 in `labels`."""

    labels: NDArray[np.int32]  # [h, w], 0 outside nuclei
    centres: _F64  # [n, 2], row and column
    areas_um2: _F64  # [n]

    @property
    def sizes(self) -> _I64:
        """Index of each nucleus' class in `SIZES`, i64[n]."""
        return np.searchsorted([*SIZES.values()][:-1], self.areas_um2, side="right")


def find_nuclei(image: Pixels, um_per_px: float | None) -> Nuclei:
    """Detects nuclei in u8[h, w, 3].

    Haematoxylin by colour deconvolution (Ruifrok and Johnston 2001), Otsu's threshold, and a
    watershed on the distance transform. An unknown pixel size is assumed to be 0.25 um.
    """
    px_per_um = 1 / (um_per_px or _DEFAULT_UM_PER_PX)
    haematoxylin = ndimage.gaussian_filter(rgb2hed(image)[..., 0], _BLUR_UM * px_per_um)
    if np.ptp(haematoxylin) == 0:
        return Nuclei(np.zeros(haematoxylin.shape, np.int32), np.empty((0, 2)), np.empty(0))
    dark = haematoxylin > threshold_otsu(haematoxylin)  # type: ignore[no-untyped-call]
    footprint = disk(round(px_per_um / 2))  # type: ignore[no-untyped-call]
    dark = ndimage.binary_opening(dark, footprint)
    min_area_px = int(_MIN_AREA_UM2 * px_per_um**2)
    dark = ~_without_small(~_without_small(dark, min_area_px), min_area_px)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(dark), _BLUR_UM * px_per_um)
    min_distance_px = max(1, round(_MIN_DISTANCE_UM * px_per_um))
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        depth, min_distance=min_distance_px, labels=dark.astype(np.int32), exclude_border=False
    )
    markers = np.zeros(dark.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, markers, mask=dark)  # type: ignore[no-untyped-call]
    return _measured(labels, min_area_px, px_per_um)


def _measured(labels: NDArray[np.int32], min_area_px: int, px_per_um: float) -> Nuclei:
    """Drops regions that are too small, and numbers the others without gaps."""
    areas_px = np.bincount(labels.ravel())
    kept = np.flatnonzero(areas_px[1:] >= min_area_px) + 1
    number = np.zeros(len(areas_px), np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    numbered = number[labels]
    centres = ndimage.center_of_mass(numbered > 0, numbered, np.arange(1, len(kept) + 1))
    return Nuclei(numbered, np.reshape(centres, (-1, 2)), areas_px[kept] / px_per_um**2)


def matched_nuclei(output: _F64, high: _F64, um_per_px: float | None) -> tuple[_I64, _I64]:
    """Matches two detections one to one, by centres, f64[n, 2], within 3 um of each other.

    Returns the indices of the matched nuclei in `output` and in `high`, i64[matches] both.
    """
    if not (len(output) and len(high)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance_um = cdist(output, high) * (um_per_px or _DEFAULT_UM_PER_PX)
    near = np.where(distance_um <= _MATCH_UM, distance_um, 1e6)
    rows, columns = linear_sum_assignment(near)
    is_near = near[rows, columns] <= _MATCH_UM
    return rows[is_near], columns[is_near]


def compared_nuclei(output: Nuclei, high: Nuclei, um_per_px: float | None) -> _F64:
    """Counts what an output made of the nuclei of the true image: f64[sizes, COUNTS].

    Kept nuclei are counted by their size in the true image, invented ones by that in the output.
    Merged is an output's nucleus on the centres of two or more true ones, split a true one on the
    centres of two or more of the output's. The change in area, (output - true) / true, is summed
    over the nuclei kept.
    """
    of_output, of_high = matched_nuclei(output.centres, high.centres, um_per_px)
    is_invented = np.ones(len(output.areas_um2), bool)
    is_invented[of_output] = False
    change = output.areas_um2[of_output] / high.areas_um2[of_high] - 1
    columns = (
        _by_size(high.sizes),
        _by_size(high.sizes[of_high]),
        _by_size(output.sizes),
        _by_size(output.sizes[is_invented]),
        _by_size(output.sizes[_centres_inside(output, high) > 1]),
        _by_size(high.sizes[_centres_inside(high, output) > 1]),
        np.bincount(high.sizes[of_high], change, len(SIZES)),
    )
    return np.stack(columns, axis=1).astype(np.float64)


def _by_size(sizes: _I64) -> _I64:
    return np.bincount(sizes, minlength=len(SIZES))


def _centres_inside(these: Nuclei, those: Nuclei) -> _I64:
    """How many centres of `those` lie inside each of `these`."""
    rows, columns = np.rint(those.centres).astype(int).T
    return np.bincount(these.labels[rows, columns], minlength=len(these.areas_um2) + 1)[1:]


def _without_small(mask: NDArray[np.bool_], min_area_px: int) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= min_area_px
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept
