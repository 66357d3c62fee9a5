"""Density of haematoxylin and eosin in an upscaled image against its original."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hed

from slidesr.geometry import Pixels

_TISSUE_OD = 0.15  # beta of Macenko et al. 2009, https://doi.org/10.1109/ISBI.2009.5193250

_LEAST_DENSITY = 1e-3  # of `rgb2hed`; takes 3 grey levels from white

_F64 = NDArray[np.float64]


def stain_errors(image: Pixels, reference: Pixels) -> _F64:
    """The relative changes of stain density: f64[2, 2], rows H and E, columns mean and deviation.

    Both images are u8[h, w, 3]. Densities are by colour deconvolution with the stain vectors of
    Ruifrok and Johnston 2001 (Anal Quant Cytol Histol 23:291), on the pixels where the reference
    absorbs light; 0.1 means a tenth more. 0 if there are none, or no such stain.
    """
    tissue = reference.min(axis=2) < 255 * 10**-_TISSUE_OD
    if not tissue.any():
        return np.zeros((2, 2))
    these, those = (_statistics(each[tissue]) for each in (image, reference))
    return np.divide(these, those, out=np.ones((2, 2)), where=those > _LEAST_DENSITY) - 1


def _statistics(pixels: Pixels) -> _F64:
    """The mean and deviation of haematoxylin and eosin: u8[n, 3] -> f64[2, 2]."""
    densities = rgb2hed(pixels.clip(1))[:, :2]  # black would absorb without end
    return np.stack([densities.mean(axis=0), densities.std(axis=0)], axis=1)
