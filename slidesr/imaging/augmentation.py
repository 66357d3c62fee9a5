"""Augmentation: the symmetries of a square, and colours as stains and scanners vary them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.color import hed_from_rgb, rgb_from_hed

from slidesr.geometry import Box, Pixels

_F32 = npt.NDArray[np.float32]
rgb_from_ihc = rgb_from_hed[[0, 2, 1]]  # eosin in the colour of DAB, the residual in that of eosin
_LOGARITHM: _F32 = np.log((np.arange(256) + 1) / 256).astype(np.float32)  # minus optical density


def turned(crop: Pixels, quarter_turns: int, *, mirrored: bool) -> Pixels:
    """Applies one of the eight symmetries of a square."""
    rotated = np.rot90(crop, quarter_turns)
    return rotated[:, ::-1] if mirrored else rotated


@dataclass(frozen=True)
class Jitter:
    """A colour transformation, applied identically to each image."""

    densities: _F32 | None  # [3, 3]: right-multiplied to optical densities
    channels: _F32 | None  # [2, 3]: gain, and offset in grey levels

    def applied(self, image: Pixels) -> Pixels:
        """Returns a transformed copy, u8[h, w, 3], rounded once."""
        planes = image.transpose(2, 0, 1)  # planar layout is twice as fast
        if self.densities is None and self.channels is None:
            return _interleaved(planes)
        if self.densities is None:
            changed = planes.astype(np.float32)
        else:
            logarithms = _LOGARITHM.take(planes, mode="wrap")  # "raise" would buffer
            changed = np.einsum("jhw,jc->chw", logarithms, self.densities)
            np.exp(changed, out=changed)
            changed *= 256
            changed -= 1
        if self.channels is not None:
            gain, offset = self.channels[:, :, None, None]
            changed *= gain
            changed += offset
        np.rint(changed.clip(0, 255, out=changed), out=changed)
        return _interleaved(changed.astype(np.uint8))


def drawn_jitter(
    stain: float, colour: float, rng: np.random.Generator, *, ihc_share: float = 0.0
) -> Jitter:
    """Draws stain and colour jitter, each with probability 1/2, up to these relative amounts.

    With probability `ihc_share`, eosin becomes DAB, the brown of immunohistochemistry.
    """
    amount = stain if rng.random() < 0.5 else 0.0
    as_ihc = ihc_share > 0 and rng.random() < ihc_share
    return Jitter(
        _stain_matrix(amount, rng, as_ihc=as_ihc) if amount or as_ihc else None,
        _gain_and_offset(colour, rng) if rng.random() < 0.5 and colour else None,
    )


def drawn_rectangle(side: int, rng: np.random.Generator) -> Box:
    """Draws a rectangle within a square, of any size and place, for CutMix (arXiv 1905.04899).

    Attention windows then differ in their content, and the network learns that this must not show
    at their borders.
    """
    (x0, x1), (y0, y1) = np.sort(rng.integers(side + 1, size=(2, 2)))
    return Box(int(x0), int(y0), int(x1 - x0), int(y1 - y0))


def _stain_matrix(amount: float, rng: np.random.Generator, *, as_ihc: bool) -> _F32:
    """Scales haematoxylin, eosin and the residual independently (Tellez 2018, TMI 37:2126).

    With `as_ihc`, eosin is shown in the colour of DAB.
    """
    factors = 1 + rng.uniform(-amount, amount, 3)
    colours = rgb_from_ihc if as_ihc else rgb_from_hed
    change: _F32 = (hed_from_rgb * factors @ colours).astype(np.float32)
    return change


def _gain_and_offset(amount: float, rng: np.random.Generator) -> _F32:
    """Varies white balance and black level, which differ between scanners."""
    gain, black = rng.uniform(-amount, amount, (2, 3))
    return np.stack([1 + gain - black, 255 * black]).astype(np.float32)


def _interleaved(planes: Pixels) -> Pixels:
    """u8[3, h, w] -> u8[h, w, 3]."""
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(planes):
        image[:, :, channel] = plane
    return image
