"""The choices that a user has for an upscaling job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slidesr.geometry import Box
from slidesr.imaging.window import WindowChoice
from slidesr.output.format import Format

SCALES = (2, 4, 8, 16)
BAD_TILE_CHOICES = ("stop", "fill")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Options:
    """All choices for an upscaling job; at most one of level, mpp and magnification is given.

    Raises ValueError where a choice is not one of those offered.
    """

    scale: int = 4
    model: str | None = None  # a shipped model's name or a file; by default the scale's own
    perception: float | None = None  # from the model's fidelity weights, 0, to its own, 1
    ensemble: bool = False  # average eight passes, turned and mirrored: truer, 8 times the work
    tolerance: float | None = 2.0  # grey levels that the reduced result may differ; None: any
    level: int | None = None
    mpp: float | None = None
    magnification: float | None = None
    source_mpp: float | None = None  # of level 0, for files that do not state it
    crop: Box | None = None  # in level-0 pixels
    roi: Path | None = None  # annotations: GeoJSON or ASAP XML
    tissue: str = "auto"  # auto, all, or the path of a mask image
    on_bad_tile: str = "stop"  # or fill: unreadable source tiles become background
    window: WindowChoice = None  # of 16-bit samples: `auto`, or those that become black and white
    icc: str = "keep"  # the slide's colour profile: keep, srgb or drop
    keep_metadata: tuple[str, ...] = ()  # names of slide properties to carry over
    format: Format = field(default_factory=Format)
    device: str = "auto"  # auto, cpu, cuda (all of them), cuda:N, or several with commas
    precision: str = "auto"
    batch_size: int | None = None  # tiles a batch on a GPU; 16 by default
    num_workers: int = 2  # threads that read, and as many that encode
    overwrite: bool = False

    def __post_init__(self) -> None:
        _check_choice("scale", self.scale, SCALES)
        _check_choice("on_bad_tile", self.on_bad_tile, BAD_TILE_CHOICES)
        _check_choice("precision", self.precision, PRECISIONS)


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(map(str, choices))}")
