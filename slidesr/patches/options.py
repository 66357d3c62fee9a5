"""Everything that decides which patches there are, and what they are called."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from slidesr.errors import RefusedError
from slidesr.geometry import Mpp

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class PatchOptions:
    """Kept with the patches. At most one of level, mpp and magnification is given."""

    size_px: int = 256
    level: int | None = None
    mpp: float | None = None
    magnification: float | None = None
    source_mpp: float | None = None  # level 0's, where the file does not say
    pairs: int | None = None  # also the same places of the level that is so much coarser
    per_slide: int = 500  # at most; half of them tumour where a slide has both labels
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)  # shares of the slides, in SPLITS' order
    seed: int = 0
    min_tissue: float = 0.5  # of a patch's area
    # 0 is sharp, 1 is blurred. Of 387 sharp H&E fields of 12 sets none lies above 0.55; of the same
    # fields blurred by 2 px 67% do, by 3 px all.
    max_blur: float = 0.55
    unannotated: str = ""  # the label of slides that have no annotation
    lesions: tuple[str, ...] = ()  # the kinds of area that are lesions; any if empty
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
            raise RefusedError(f"pairs {self.pairs}: {self.size_px} px do not divide by it")
        told = ",".join(f"{share:g}" for share in self.split)
        if not (len(self.split) == len(SPLITS) and self.split[0] > 0 <= min(self.split)):
            raise RefusedError(
                f"split {told}: give the shares of {', '.join(SPLITS)}, train's above 0,"
                " for example 0.8,0.1,0.1"
            )
        if not math.isclose(sum(self.split), 1):
            raise RefusedError(f"split {told}: the shares must add up to 1")
        if not (self.dataset and self.licence):
            raise RefusedError("dataset and licence must not be empty, as training asks for both")

    @property
    def level0_mpp(self) -> Mpp | None:
        return Mpp(self.source_mpp, self.source_mpp) if self.source_mpp else None

    def number(self, name: str) -> int:
        """A random number of 64 bits for a slide's name; the same on every machine."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:8])
