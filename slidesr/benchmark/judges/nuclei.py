"""Nuclei that an upscaled image preserves, hallucinates or loses, by a classical detector."""

from __future__ import annotations

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

_F64 = NDArray[np.float64]


def find_nuclei(image: Pixels, um_per_px: float | None) -> _F64:
    """Detects nuclei in u8[h, w, 3]: f64[n, 2], row and column of each centre.

    Haematoxylin by colour deconvolution (Ruifrok and Johnston 2001), Otsu's threshold, and a
    watershed on the distance transform. An unknown pixel size is assumed to be 0.25 um.
    """
    px_per_um = 1 / (um_per_px or _DEFAULT_UM_PER_PX)
    haematoxylin = ndimage.gaussian_filter(rgb2hed(image)[..., 0], _BLUR_UM * px_per_um)
    if np.ptp(haematoxylin) == 0:
        return np.empty((0, 2))
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
    areas = np.bincount(labels.ravel(), minlength=len(peaks) + 1)
    kept = np.flatnonzero(areas[1:] >= min_area_px) + 1
    centres: _F64 = np.reshape(ndimage.center_of_mass(dark, labels, kept), (-1, 2))
    return centres


def matched_nuclei(output: _F64, high: _F64, um_per_px: float | None) -> int:
    """Counts one-to-one matches between two detections: centres within 3 um."""
    if not (len(output) and len(high)):
        return 0
    distance_um = cdist(output, high) * (um_per_px or _DEFAULT_UM_PER_PX)
    near = np.where(distance_um <= _MATCH_UM, distance_um, 1e6)
    return int((near[linear_sum_assignment(near)] <= _MATCH_UM).sum())


def nuclei_scores(
    high: int, detected: int, matched: int, mm2: float | None
) -> dict[str, float | int | None]:
    """Computes detection scores from counts over one or more images; None if undefined."""
    return {
        "nuclei_in_high": high,
        "nuclei_found": detected,
        "precision": _ratio(matched, detected),
        "recall": _ratio(matched, high),
        "invented_per_mm2": _ratio(detected - matched, mm2),
        "lost_per_mm2": _ratio(high - matched, mm2),
    }


def _without_small(mask: NDArray[np.bool_], min_area_px: int) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= min_area_px
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept


def _ratio(count: int, whole: float | None) -> float | None:
    return count / whole if whole else None
