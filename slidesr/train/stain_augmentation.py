"""Colour augmentation: variations of staining and scanners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.color import hed_from_rgb, rgb_from_hed

from slidesr.geometry import Pixels

_F32 = npt.NDArray[np.float32]
_LOGARITHM: _F32 = np.log((np.arange(256) + 1) / 256).astype(np.float32)  # minus optical density


@dataclass(frozen=True)
class Jitter:
    """A colour change that can be applied to several images alike."""

    densities: _F32 | None  # [3, 3]: right-multiplies optical densities
    channels: _F32 | None  # [2, 3]: gain, and offset in grey levels

    def applied(self, image: Pixels) -> Pixels:
        """Returns a changed copy, u8[h, w, 3] -> u8[h, w, 3], rounded once."""
        planes = image.transpose(2, 0, 1)  # a channel at a time is twice as fast
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
            gain, added = self.channels[:, :, None, None]
            changed *= gain
            changed += added
        np.rint(changed.clip(0, 255, out=changed), out=changed)
        return _interleaved(changed.astype(np.uint8))


def drawn_jitter(stain: float, colour: float, rng: np.random.Generator) -> Jitter:
    """Draws changes of stains and colours, each in half of the cases, at most by these shares."""
    return Jitter(
        _stains_scaled(stain, rng) if rng.random() < 0.5 and stain else None,
        _channels_changed(colour, rng) if rng.random() < 0.5 and colour else None,
    )


def _stains_scaled(amount: float, rng: np.random.Generator) -> _F32:
    """Scales haematoxylin, eosin and the residual separately (Tellez et al. 2018, TMI 37:2126)."""
    factors = 1 + rng.uniform(-amount, amount, 3)
    change: _F32 = (hed_from_rgb * factors @ rgb_from_hed).astype(np.float32)
    return change


def _channels_changed(amount: float, rng: np.random.Generator) -> _F32:
    """Changes white balance and black level, in which scanners differ."""
    gain, black = rng.uniform(-amount, amount, (2, 3))
    return np.stack([1 + gain - black, 255 * black]).astype(np.float32)


def _interleaved(planes: Pixels) -> Pixels:
    """u8[3, h, w] -> u8[h, w, 3]."""
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(planes):
        image[:, :, channel] = plane
    return image
