"""Structure of an upscaled image without a network as judge: detail, grids and stain."""

from __future__ import annotations

from slidesr.geometry import Pixels
from slidesr.imaging.spectrum import BAND_PERIODS_PX, band_errors_db, grid_db, step_modulation
from slidesr.imaging.stain import stain_errors

STRUCTURE = (
    *(f"spectrum_{period}_px_db" for period in BAND_PERIODS_PX),
    "grid_db",
    "step_modulation",
    "stain_h_mean",
    "stain_h_sd",
    "stain_e_mean",
    "stain_e_sd",
)
"""The metrics of `structure`: signed, 0 as in the original."""


def structure(output: Pixels, high: Pixels, scale: int) -> dict[str, float]:
    """Computes all metrics of `STRUCTURE` of an output of at least 64 px, shaped like `high`."""
    values = (
        *band_errors_db(output, high),
        grid_db(output, high, scale),
        step_modulation(output, high, scale),
        *stain_errors(output, high).ravel(),
    )
    return {name: float(value) for name, value in zip(STRUCTURE, values, strict=True)}
