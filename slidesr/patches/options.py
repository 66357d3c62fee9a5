"""The options that determine the patches and their names."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from slidesr.errors import RefusedError
from slidesr.geometry import Mpp
from slidesr.imaging.window import WindowChoice

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class PatchOptions:
    """The options of a patch folder, stored with it; at most one of level, mpp, magnification."""

    size_px: int = 256
    level: int | None = None
    mpp: float | None = None
    magnification: float | None = None
    source_mpp: float | None = None  # of level 0, where the file states none
    window: WindowChoice = None  # of samples of 16 bits
    pairs: int | None = None  # also cut the same places of the level this many times coarser
    per_slide: int = 500  # at most; half of them tumour if a slide has both labels
    split: tuple[float, float, float] = (
        0.8,
        0.1,
        0.1,
    )  # shares of slides, as in SPLITS
    seed: int = 0
    min_tissue: float = 0.5  # of a patch's area
    # 0 is sharp, 1 is blurred. Of 387 sharp H&E fields from 12 data sets none exceeds 0.55; blurred
    # by 2 px 67% of them do, by 3 px all.
    max_blur: float = 0.55
    unannotated: str = ""  # the label of slides without annotation
    lesions: tuple[str, ...] = ()  # the kinds of areas that are lesions; any if empty
    dataset: str = "not stated"
    licence: str = "not stated"

    def __post_init__(self) -> None:
        scales = (self.level, self.mpp, self.magnification)
        if sum(scale is not None for scale in scales) > 1:
            raise RefusedError("Give only one of level, mpp and magnification.")
        for name in ("mpp", "magnification", "source_mpp"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RefusedError(f"{name} {value:g} is not positive and finite")
        if self.pairs is not None and (self.pairs < 2 or self.size_px % self.pairs):
            raise RefusedError(f"pairs {self.pairs}: {self.size_px} px is not a multiple of it")
        shares = ",".join(f"{share:g}" for share in self.split)
        if not (len(self.split) == len(SPLITS) and self.split[0] > 0 <= min(self.split)):
            raise RefusedError(
                f"split {shares}: give the shares of {', '.join(SPLITS)}, train's above 0,"
                " for example 0.8,0.1,0.1"
            )
        if not math.isclose(sum(self.split), 1):
            raise RefusedError(f"split {shares}: the shares must add up to 1")
        if not (self.dataset and self.licence):
            raise RefusedError("dataset and licence must not be empty: training requires both")

    @property
    def level0_mpp(self) -> Mpp | None:
        return Mpp(self.source_mpp, self.source_mpp) if self.source_mpp else None

    def number(self, name: str) -> int:
        """A random number of 64 bits for a slide's name; the same on every machine."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:8])
