"""Image quality metrics against a reference, each as defined by its authors.

Each takes `(image, reference)`, both u8[h, w, 3], RGB in 0..255. Windows are 11 x 11 Gaussian,
sigma 1.5, and lie entirely inside the image. Where a paper defines a metric for grey images only,
the value is the mean over the RGB channels. Functions ending in `_author` reproduce the code of
WA-SRGAN's author (github.com/Fuzzy-sh/WA-SRGAN) and are comparable only with her logs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slidesr.geometry import Pixels

_PEAK = 255
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2  # eq. 7 of Wang 2004
_SIGMA, _RADIUS = 1.5, 5
_WINDOW_PX = 2 * _RADIUS + 1

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # section 3.2 of Wang 2003
MS_SSIM_SIDE_PX = 161
"""The smallest side for MS-SSIM: halved four times, one window is left."""

_QILV_SIDE_PX = _WINDOW_PX + 1  # more than one window, for N - 1 statistics
REC601_LUMA = (0.299, 0.587, 0.114)

_REC601_STUDIO = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # 16..235; an offset cancels

_KID_ROWS = 1024

_F64 = NDArray[np.float64]


def frechet(these: _F64, those: _F64) -> float:
    """The Frechet distance of two sets of features f64[n, d] taken as normal distributions, >= 0.

    Eq. 6 of Heusel et al. 2017, arXiv 1706.08500. Biased: it falls with n, so compare equal sizes
    only; `kid` is not biased.
    """
    means = [each.mean(axis=0) for each in (these, those)]
    # C = R'R / (n - 1), and the trace of the root of a product of two such is the sum of the
    # singular values of R1 R2'; that also holds for fewer rows than columns.
    factors = [
        np.linalg.qr(each - mean).R / math.sqrt(len(each) - 1)
        for each, mean in zip((these, those), means, strict=True)
    ]
    roots = np.linalg.svdvals(factors[0] @ factors[1].T)
    spread = sum(np.square(factor).sum() for factor in factors) - 2 * roots.sum()
    return float(max(0.0, np.sum((means[0] - means[1]) ** 2) + spread))


def kid(these: _F64, those: _F64) -> float:
    """The kernel distance of two sets of features f64[n, d], n >= 2; about 0 if alike.

    The unbiased squared MMD of Binkowski et al. 2018, arXiv 1801.01401, with its kernel
    (x.y / d + 1)^3. Rows of the same index may be of the same place, so no pair of them is used:
    the U-statistic of Gretton et al. 2012, JMLR 13:723, eq. 4, which is unbiased for such pairs and
    0 for equal sets. Chance may make it negative. Memory: 1024 * n values.
    """
    n = len(these)
    if these.shape != those.shape or n < 2:
        raise ValueError(f"sets of {these.shape} and {those.shape}: give two alike, of two or more")
    total = 0.0
    for first in range(0, n, _KID_ROWS):
        rows = slice(first, first + _KID_ROWS)
        total += _kernel_sum(these, these, rows) + _kernel_sum(those, those, rows)
        total -= 2 * _kernel_sum(these, those, rows)
    return total / (n * (n - 1))


def mse(image: Pixels, reference: Pixels) -> float:
    """The mean squared error over all pixels and channels, in squared grey levels."""
    a, b = _floats(image, reference)
    return float(np.mean(np.square(a - b)))


def psnr_db(image: Pixels, reference: Pixels) -> float:
    """The peak signal-to-noise ratio of one image on RGB, in dB; infinite for equal images.

    Average PSNR over images rather than squared errors, which the worst image would dominate.
    """
    error = mse(image, reference)
    return 10 * math.log10(_PEAK**2 / error) if error else math.inf


def psnr_y_db(image: Pixels, reference: Pixels) -> float:
    """`psnr_db` on luma only, common for photographs; about 1.4 dB above that of RGB.

    Luma is ITU-R BT.601 in 16..235 as in MATLAB's rgb2ycbcr, not rounded; the peak is still 255.
    """
    a, b = _floats(image, reference)
    error = float(np.mean(np.square((a - b) @ _REC601_STUDIO)))
    return 10 * math.log10(_PEAK**2 / error) if error else math.inf


def mean_absolute(image: Pixels, reference: Pixels) -> float:
    """The mean absolute difference in grey levels.

    Between an upscaled image reduced again and its source, this measures consistency: 0 if the
    reduction reproduces the source.
    """
    a, b = _floats(image, reference, side_px=1)
    return float(np.mean(np.abs(a - b)))


def ssim(image: Pixels, reference: Pixels) -> float:
    """The structural similarity, at most 1.

    Eqs. 13 and 17 of Wang, Bovik, Sheikh and Simoncelli 2004, with its K1 0.01, K2 0.03 and
    population covariance, https://doi.org/10.1109/TIP.2003.819861.
    """
    similarity, _ = _similarity(*_floats(image, reference))
    return float(similarity.mean())


def ms_ssim(image: Pixels, reference: Pixels) -> float:
    """The structural similarity over five scales, 0..1; sides of at least 161 px.

    Eq. 7 of Wang, Simoncelli and Bovik 2003, https://doi.org/10.1109/ACSSC.2003.1292216: contrast
    and structure from every scale, luminance from the coarsest. A scale where a channel's mean is
    negative counts as 0, as in pytorch-msssim.
    """
    return _ms_ssim(image, reference, last_power=1)


def qilv(image: Pixels, reference: Pixels) -> float:
    """The quality index based on local variance, at most 1, on Rec. 601 luma.

    It compares maps of local variance, which upscaling flattens, so low values are normal: bicubic
    H&E has 0.3 to 0.5 at x4 and below 0.1 at x8. Ports with zero padding report higher values,
    dominated by the border, which is alike in both images.

    Aja-Fernandez et al. 2006, https://doi.org/10.1109/IEMBS.2006.259516, with the constants for
    0..255 and N - 1 statistics. Its last two factors share the term `2 s1 s2 + C2`, which cancels.
    """
    images = _floats(image, reference, side_px=_QILV_SIDE_PX)
    a, b = (_local_variance(rgb @ REC601_LUMA) for rgb in images)
    (variance_a, covariance), (_, variance_b) = np.cov(a.ravel(), b.ravel())
    mean_a, mean_b = a.mean(), b.mean()
    level = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    spread = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return float(level * spread)


def running_psnr_db_author(errors: Sequence[float]) -> float:
    """The mean over i of the PSNR, at most 100 dB, of the mean of the first i squared errors."""
    running = np.cumsum(errors) / np.arange(1, len(errors) + 1)
    return float(np.mean(10 * np.log10(_PEAK**2 / running.clip(_PEAK**2 / 1e10))))


def ms_ssim_author(image: Pixels, reference: Pixels) -> float:
    """`ms_ssim` with the coarsest scale's factor to the fourth power.

    A widespread port multiplies it into each of the other four scales. Whether the author's code
    shares that port's other deviations is unknown, so the rest is as in `ms_ssim`.
    """
    return _ms_ssim(image, reference, last_power=4)


def qilv_author(image: Pixels, reference: Pixels) -> float:
    """`qilv` on all RGB values together, with zero-padded windows and without C1 and C2.

    The border, alike in both images, dominates it: 0.53 where `qilv` gives 0.08. NaN for images
    without any variance.
    """
    a, b = (_padded_variance(rgb) for rgb in _floats(image, reference, side_px=_QILV_SIDE_PX))
    (variance_a, covariance), (_, variance_b) = np.cov(a.ravel(), b.ravel())
    mean_a, mean_b = a.mean(), b.mean()
    level = 2 * mean_a * mean_b / (mean_a**2 + mean_b**2)
    return float(level * 2 * covariance / (variance_a + variance_b))


def _kernel_sum(these: _F64, those: _F64, rows: slice) -> float:
    """The sum of the kernel of some rows of these with all of those but the row of their index."""
    kernel = (these[rows] @ those.T / these.shape[1] + 1) ** 3
    return float(kernel.sum() - np.diagonal(kernel, rows.start).sum())


def _floats(image: Pixels, reference: Pixels, side_px: int = _WINDOW_PX) -> tuple[_F64, _F64]:
    """Checks that the images are comparable and returns them as f64[h, w, 3] in 0..255."""
    for pixels in (image, reference):
        if pixels.dtype != np.uint8:
            raise ValueError(f"images must be uint8, not {pixels.dtype}: round them to 0..255")
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"images must be [h, w, 3], not {pixels.shape}: give one RGB image")
    if image.shape != reference.shape:
        raise ValueError(f"image {image.shape} and reference {reference.shape} differ: crop one")
    if min(image.shape[:2]) < side_px:
        height, width, _ = image.shape
        raise ValueError(
            f"{width} x {height} px are too few: give images of at least {side_px} px a side"
        )
    return image.astype(np.float64), reference.astype(np.float64)


def _ms_ssim(image: Pixels, reference: Pixels, *, last_power: int) -> float:
    a, b = _floats(image, reference, side_px=MS_SSIM_SIDE_PX)
    product = np.ones(3)
    for weight in _SCALE_WEIGHTS[:-1]:
        _, contrast = _similarity(a, b)
        product *= contrast.clip(min=0) ** weight
        a, b = _halved(a), _halved(b)
    similarity, _ = _similarity(a, b)
    return float(np.mean(product * similarity.clip(min=0) ** (last_power * _SCALE_WEIGHTS[-1])))


def _similarity(a: _F64, b: _F64) -> tuple[_F64, _F64]:
    """The means over all windows of SSIM and of its contrast-structure factor: f64[3] each."""
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    covariance = _window_mean(a * b) - product
    variances = _window_mean(a**2 + b**2) - squares  # the sum of both
    contrast = (2 * covariance + _C2) / (variances + _C2)
    luminance = (2 * product + _C1) / (squares + _C1)
    return np.mean(luminance * contrast, axis=(0, 1)), np.mean(contrast, axis=(0, 1))


def _local_variance(grey: _F64) -> _F64:
    return _window_mean(grey**2) - _window_mean(grey) ** 2


def _padded_variance(rgb: _F64) -> _F64:
    """The local variance with zero padding: [h, w, 3] -> [h, w, 3]."""
    first, second = (
        ndimage.gaussian_filter(a, _SIGMA, radius=_RADIUS, axes=(0, 1), mode="constant")
        for a in (rgb**2, rgb)
    )
    variance: _F64 = first - second**2
    return variance


def _window_mean(a: _F64) -> _F64:
    """The mean of each window inside the image: [h, w, ...] -> [h-10, w-10, ...]."""
    blurred: _F64 = ndimage.gaussian_filter(a, _SIGMA, radius=_RADIUS, axes=(0, 1))
    return blurred[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def _halved(a: _F64) -> _F64:
    """The means of 2 x 2 pixels; the last line of an odd side counts twice, as in Wang's code."""
    height, width, _ = a.shape
    even = np.pad(a, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rows = even[0::2] + even[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) / 4
