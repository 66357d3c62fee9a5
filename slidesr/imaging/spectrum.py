"""Detail and regular patterns of an upscaled image against its original, from power spectra.

Each takes `(image, reference)`, both u8[h, w, 3], RGB in 0..255, of the same shape and at least
64 px per side. 0 dB means as in the reference, more means added and less means missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from slidesr.geometry import Pixels
from slidesr.imaging.metrics import REC601_LUMA

SPECTRUM_SIDE_PX = 64
"""The smallest side: the coarsest band is then 2 to 4 frequencies wide."""

BAND_PERIODS_PX = (2, 4, 8, 16)
"""The shortest period of each octave band, finest first; the longest is twice that."""

_LEAST_LATTICE_PX = 4  # the period of two pixel shuffles by 2
_PEAK_BINS = 1  # half of the Hann window's main lobe
_AROUND_BINS = 8
_ROUNDING = 1 / 12  # variance of one rounded channel
_LUMA_ROUNDING = _ROUNDING * np.sum(np.square(REC601_LUMA))  # R, G and B are rounded independently

_F64 = NDArray[np.float64]


def band_errors_db(image: Pixels, reference: Pixels) -> _F64:
    """The power of each octave band relative to the reference's, finest first: f64[4] in dB.

    Bands are rings of the 2-D power spectrum: 1/2..1, 1/4..1/2, 1/8..1/4 and 1/16..1/8 of the
    Nyquist frequency. Upsampling that loses or invents energy at high frequencies is visible there
    (Durall et al. 2020, https://doi.org/10.1109/CVPR42600.2020.00791).
    """
    these, those = (_band_powers(luma) for luma in _lumas(image, reference))
    return _db(these) - _db(those)


def grid_db(image: Pixels, reference: Pixels, scale: int) -> float:
    """How far the spectrum's peaks at a grid's frequencies exceed the reference's, in dB.

    A pattern of `p` px, as upsampling by `p` leaves (Odena et al. 2016,
    https://doi.org/10.23915/distill.00003), is power at multiples of 1/p cycles per px. A peak is
    this power over that of the frequencies around, the mean over all multiples, and the grid is the
    highest of p = 2, 4, ... up to the scale, at least 4. Both powers are increased by that of a
    pattern as weak as rounding, so stripes of plus and minus 1 grey level give 11 dB where no
    texture hides them, and those of 0.1 give 0.5 dB. The pattern must lie alike all over the image:
    the blocks of nearest-neighbour upscaling average out, and `step_modulation` sees those.
    """
    lattice_px = max(scale, _LEAST_LATTICE_PX)
    these, those = (_grid(luma, lattice_px) for luma in _lumas(image, reference))
    return these - those


def step_modulation(image: Pixels, reference: Pixels, scale: int) -> float:
    """How much more steps vary with the place in a low-resolution pixel than the reference's.

    The mean squared step between neighbours is taken for each of the `scale` places, along rows and
    along columns; its standard deviation over the places, relative to its mean, is 0 for even
    texture and sqrt(scale - 1) for nearest-neighbour upscaling. As Gallagher 2005,
    https://doi.org/10.1109/CRV.2005.33, detects interpolation, with first differences.
    """
    these, those = (_modulation(luma, scale) for luma in _lumas(image, reference))
    return these - those


def _lumas(image: Pixels, reference: Pixels) -> tuple[_F64, _F64]:
    """Checks that the images are comparable and returns their Rec. 601 luma, f64[h, w]."""
    if image.shape != reference.shape:
        raise ValueError(f"image {image.shape} and reference {reference.shape} differ: crop one")
    if min(image.shape[:2]) < SPECTRUM_SIDE_PX:
        height, width, _ = image.shape
        raise ValueError(f"{width} x {height} px are too few: give {SPECTRUM_SIDE_PX} px per side")
    return image @ np.array(REC601_LUMA), reference @ np.array(REC601_LUMA)


def _power(luma: _F64) -> _F64:
    """The power spectrum [h, w] of the mean-free, Hann-windowed image; white noise: its variance.

    Harris 1978, https://doi.org/10.1109/PROC.1978.10837. A half-pixel shift makes the window
    symmetric, so that turned images have turned spectra.
    """
    window = np.multiply.outer(*(_hann(side) for side in luma.shape))
    free = luma - np.average(luma, weights=window)
    spectrum = np.abs(fft.fft2(free * window))
    return np.asarray(np.square(spectrum) / np.sum(np.square(window)))


def _hann(side: int) -> _F64:
    return np.asarray(np.square(np.sin(np.pi * (np.arange(side) + 0.5) / side)))


def _band_powers(luma: _F64) -> _F64:
    """The mean power of each band, at least that of rounding: f64[4], finest first."""
    power = _power(luma)
    squares = [np.square(2 * fft.fftfreq(side)) for side in power.shape]  # 1 is Nyquist
    radius2 = np.add.outer(*squares)
    edges2 = np.square([1 / period for period in (1, *BAND_PERIODS_PX)])
    bands = np.searchsorted(-edges2, -radius2.ravel(), "right")  # 0 beyond Nyquist: corners
    counts = np.bincount(bands, minlength=6)
    sums = np.bincount(bands, power.ravel(), minlength=6)
    return np.asarray((sums / counts)[1:5].clip(min=_LUMA_ROUNDING))


def _grid(luma: _F64, lattice_px: int) -> float:
    """The strongest peak, in dB, of all periods that the image is large enough for."""
    height, width = (side // lattice_px * lattice_px for side in luma.shape)
    power = _power(luma[:height, :width])
    least = 2 * _PEAK_BINS + 3  # a peak and one frequency around it
    periods = [2**n for n in range(1, lattice_px.bit_length())]
    return max(_peak_db(power, p) for p in periods if min(height, width) // p >= least)


def _peak_db(power: _F64, period: int) -> float:
    """The mean power at multiples of 1/period, but 0, over that around them, in dB.

    The spectrum is cut into period x period cells with one multiple in the middle of each.
    """
    rows, columns = (side // period for side in power.shape)
    centred = np.roll(power, (rows // 2, columns // 2), (0, 1))
    cells = centred.reshape(period, rows, period, columns).swapaxes(1, 2)
    cells = cells.reshape(period**2, rows, columns)[1:]
    far = np.maximum.outer(*(np.abs(np.arange(n) - n // 2) for n in (rows, columns)))
    is_peak, reach = far <= _PEAK_BINS, min(_AROUND_BINS, (min(rows, columns) - 1) // 2)
    unseen = _ROUNDING * power.size / (len(cells) * np.count_nonzero(is_peak))
    peak = cells[:, is_peak].mean(axis=1) + unseen
    around = cells[:, ~is_peak & (far <= reach)].mean(axis=1) + unseen
    return float(_db(np.mean(peak / around)))


def _modulation(luma: _F64, scale: int) -> float:
    """The relative spread of the mean squared step over places, mean of rows and columns."""
    spreads = []
    for along in (luma, luma.T):
        steps = np.square(np.diff(along, axis=1)).mean(axis=0)
        places = steps[: len(steps) // scale * scale].reshape(-1, scale).mean(axis=0)
        spreads.append(places.std() / max(places.mean(), 2 * _LUMA_ROUNDING))
    return float(np.mean(spreads))


def _db(ratio: _F64 | np.float64) -> _F64:
    return np.asarray(10 * np.log10(ratio))
