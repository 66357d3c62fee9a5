"""What a user may choose of an upscaling job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slidesr.geometry import Box
from slidesr.output.writer import Format


@dataclass(frozen=True)
class Options:
    """Everything a user may choose. At most one of level, mpp and magnification is given."""

    scale: int = 4
    model: str | None = None  # a shipped model's name or a file; the scale's default if None
    perception: float | None = None  # from the model's fidelity weights, 0, to its own, 1
    tolerance: float | None = 2.0  # grey levels; the result shrinks to its source to that
    level: int | None = None
    mpp: float | None = None
    magnification: float | None = None
    source_mpp: float | None = None  # level 0's, where the file does not say
    crop: Box | None = None  # level-0 pixels
    roi: Path | None = None
    tissue: str = "auto"  # auto, all, or the path of a mask
    on_bad_tile: str = "stop"  # or fill: unreadable source tiles become background
    icc: str = "keep"  # the slide's colour profile: keep, srgb or drop
    keep_metadata: tuple[str, ...] = ()  # names of properties of the slide to carry over
    format: Format = field(default_factory=Format)
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 16
    num_workers: int = 2
    overwrite: bool = False
