"""The step that makes an enlargement shrink to what it was made from."""

from __future__ import annotations

from torch import Tensor

from slidesr.nets.layers import bicubic, shrunk, trimmed

_SHRINK_PX, _ENLARGE_PX = 2, 2  # reach of the bicubic kernels, low-resolution pixels
BEYOND_PX = _SHRINK_PX + _ENLARGE_PX


def consistent(high: Tensor, low: Tensor, scale: int, tolerance: float) -> Tensor:
    """`high` plus the enlarged error of its shrunk self, free of any border effect.

    The null-space projection of Wang, Yu and Zhang 2022 (DDNM, arXiv 2212.00490, eq. 13) with
    Pillow's bicubic as both operators. An error within the tolerance is left, and a larger one is
    mended down to it: what JPEG did to the source must not come back.

    high: f32[n, 3, (h + 2b) * scale, (w + 2b) * scale], low: f32[n, 3, h + 2b, w + 2b] with
    b = BEYOND_PX, and the tolerance, all in one unit -> f32[n, 3, h * scale, w * scale].
    """
    error = trimmed(low - shrunk(high, scale), _SHRINK_PX)
    beyond = error.sign() * (error.abs() - tolerance).clamp(min=0)
    correction = trimmed(bicubic(beyond, scale), _ENLARGE_PX * scale)
    return correction.add_(trimmed(high, BEYOND_PX * scale))
