"""Projects an upscaled image onto the images whose reduction equals the source."""

from __future__ import annotations

from torch import Tensor

from slidesr.nets.layers import bicubic, shrunk, trimmed

_SHRINK_PX, _ENLARGE_PX = 2, 2  # radii of the bicubic kernels in low-resolution pixels
BEYOND_PX = _SHRINK_PX + _ENLARGE_PX


def consistent(high: Tensor, low: Tensor, scale: int, tolerance: float) -> Tensor:
    """Adds the upscaled reduction error to `high`, without border effects.

    The null-space projection of Wang, Yu and Zhang 2022 (DDNM, arXiv 2212.00490, eq. 13) with
    Pillow's bicubic as both operators. Errors are reduced to the tolerance and no further, so that
    JPEG artefacts of the source are not reproduced.

    high: f32[n, 3, (h + 2b) * scale, (w + 2b) * scale], low: f32[n, 3, h + 2b, w + 2b] with
    b = BEYOND_PX; the tolerance is in the same unit -> f32[n, 3, h * scale, w * scale].
    """
    error = trimmed(low - shrunk(high, scale), _SHRINK_PX)
    beyond = error.sign() * (error.abs() - tolerance).clamp(min=0)
    correction = trimmed(bicubic(beyond, scale), _ENLARGE_PX * scale)
    return correction.add_(trimmed(high, BEYOND_PX * scale))
