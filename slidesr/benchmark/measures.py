"""Image metrics of every method's output on one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesr.benchmark.judges.nuclei import compared_nuclei, find_nuclei
from slidesr.benchmark.judges.structure import STRUCTURE, structure
from slidesr.benchmark.results import Subject
from slidesr.geometry import Pixels, Size
from slidesr.imaging import metrics
from slidesr.imaging.resample import bicubic_down
from slidesr.imaging.spectrum import SPECTRUM_SIDE_PX

_F64 = NDArray[np.float64]
_EQUAL_DB = 100.0  # PSNR of identical images, so that means stay finite


def _finite_psnr(psnr: Callable[[Pixels, Pixels], float], image: Pixels, high: Pixels) -> float:
    return min(psnr(image, high), _EQUAL_DB)


_PAIRWISE: dict[str, Callable[[Pixels, Pixels], float]] = {
    "psnr_db": lambda image, high: _finite_psnr(metrics.psnr_db, image, high),
    "psnr_y_db": lambda image, high: _finite_psnr(metrics.psnr_y_db, image, high),
    "mse": metrics.mse,
    "ssim": metrics.ssim,
    "ms_ssim": metrics.ms_ssim,
    "qilv": metrics.qilv,
    "ms_ssim_author": metrics.ms_ssim_author,
    "qilv_author": metrics.qilv_author,
}


@dataclass(frozen=True)
class Enlarged:
    """One image upscaled by all methods, with what the judges say of it."""

    subject: Subject
    low: Pixels  # [h, w, 3]
    high: Pixels  # [h*s, w*s, 3]
    outputs: Sequence[Pixels]  # by method, shaped like high
    judged: dict[str, list[float]]  # metric -> by method
    embeddings: dict[str, NDArray[np.float32]]  # judge -> [1 + methods, tiles, d], high first

    @property
    def scale(self) -> int:
        return len(self.high) // len(self.low)


def measurable(sizes: Sequence[Size], judged: Sequence[str], by_author: bool) -> tuple[str, ...]:
    """Returns the metrics applicable to these sizes.

    MS-SSIM needs 161 px per side, the power spectrum 64 px.
    """
    least = min(min(size.width, size.height) for size in sizes)
    return tuple(
        name
        for name in (*_PAIRWISE, *judged, "consistency", *STRUCTURE)
        if (by_author or not name.endswith("_author"))
        and (least >= metrics.MS_SSIM_SIDE_PX or not name.startswith("ms_ssim"))
        and (least >= SPECTRUM_SIDE_PX or name not in STRUCTURE)
    )


def measured(names: Sequence[str], enlarged: Enlarged) -> _F64:
    """Computes the named metrics of all outputs: f64[methods, metrics]."""
    return np.array([_scores(names, index, enlarged) for index in range(len(enlarged.outputs))])


def agreement_db(outputs: Sequence[Pixels], pairs: Sequence[tuple[int, int]]) -> _F64:
    """Computes the PSNR between pairs of outputs, given by their indices: f64[pairs]."""
    return np.array(
        [_finite_psnr(metrics.psnr_db, outputs[one], outputs[other]) for one, other in pairs]
    )


def _scores(names: Sequence[str], index: int, enlarged: Enlarged) -> list[float]:
    found: dict[str, float] = {}
    if not set(STRUCTURE).isdisjoint(names):
        found = structure(enlarged.outputs[index], enlarged.high, enlarged.scale)
    return [found[name] if name in found else _score(name, index, enlarged) for name in names]


def _score(name: str, index: int, enlarged: Enlarged) -> float:
    output = enlarged.outputs[index]
    if name in enlarged.judged:
        return enlarged.judged[name][index]
    if name == "consistency":
        return metrics.mean_absolute(bicubic_down(output, enlarged.scale), enlarged.low)
    return _PAIRWISE[name](output, enlarged.high)


def nuclei(enlarged: Enlarged) -> _F64:
    """Compares all outputs' nuclei with the original's: f64[methods, sizes, COUNTS]."""
    um_per_px = enlarged.subject.um_per_px
    high = find_nuclei(enlarged.high, um_per_px)
    found = (find_nuclei(output, um_per_px) for output in enlarged.outputs)
    return np.stack([compared_nuclei(each, high, um_per_px) for each in found])
