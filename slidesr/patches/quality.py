"""Whether a patch is worth training on: tissue rather than glass, and in focus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import blur_effect

_Pixels = NDArray[np.uint8]

_STAINED_OD = 0.06  # 13% of the light; means of 4 x 4 px of empty glass stay below 0.02
_MEAN_PX = 4
_GAP_PX = 36  # between stained nuclei there is tissue, even where only nuclei are stained


def tissue_share(pixels: _Pixels, glass: tuple[int, int, int]) -> float:
    """The share of u8[h, w, 3] that is stained, darker or more coloured than the slide's glass.

    Gaps of up to 36 px between stained parts count as stained.
    """
    means = np.asarray(Image.fromarray(pixels).reduce(_MEAN_PX), np.float32)
    density = np.log10(np.array(glass, np.float32) / means.clip(1)).max(axis=-1)
    reach = _GAP_PX // _MEAN_PX
    grown = ndimage.maximum_filter(density > _STAINED_OD, reach, mode="nearest")
    return float(ndimage.minimum_filter(grown, reach, mode="nearest").mean())


def blur(pixels: _Pixels) -> float:
    """How blurred u8[h, w, 3] is, 0..1: how little a further blurring changes (Crete 2007).

    Unlike the variance of the Laplacian, which differs tenfold between sharp slides of two stains,
    it does not depend on contrast. https://doi.org/10.1117/12.702790
    """
    strength: float = blur_effect(pixels, channel_axis=-1)  # type: ignore[no-untyped-call]
    return strength
