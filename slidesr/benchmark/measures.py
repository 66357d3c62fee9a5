"""The metrics of one image under each method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesr.benchmark.nuclei import find_nuclei, matched_nuclei
from slidesr.benchmark.results import Subject
from slidesr.geometry import Pixels, Size
from slidesr.imaging import metrics
from slidesr.imaging.resample import bicubic_down

_F64 = NDArray[np.float64]
_EQUAL_DB = 100.0  # PSNR of equal images, so that means stay finite


def _finite_psnr(psnr: Callable[[Pixels, Pixels], float], image: Pixels, high: Pixels) -> float:
    return min(psnr(image, high), _EQUAL_DB)


_OF_PAIR: dict[str, Callable[[Pixels, Pixels], float]] = {
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
    """One image at one scale upscaled by all methods, with perceptual distances and features."""

    subject: Subject
    low: Pixels  # [h, w, 3]
    high: Pixels  # [h*s, w*s, 3]
    made: Sequence[Pixels]  # per method, shaped like high
    distances: dict[str, list[float]]  # `PerceptualMetric`: metric -> per method
    embeddings: NDArray[np.float32]  # [1 + methods, tiles, d]; first row: high
    features: NDArray[np.float32]  # [1 + methods, d] for the classifier, or [0, 0]


def measurable(sizes: Sequence[Size], distances: Sequence[str], by_author: bool) -> tuple[str, ...]:
    """The metrics that images of these sizes allow: MS-SSIM needs 161 px a side."""
    least = min(min(size.width, size.height) for size in sizes)
    return tuple(
        name
        for name in (*_OF_PAIR, *distances, "consistency")
        if (by_author or not name.endswith("_author"))
        and (least >= metrics.MS_SSIM_SIDE_PX or not name.startswith("ms_ssim"))
    )


def measured(names: Sequence[str], enlarged: Enlarged) -> _F64:
    """Evaluates the metrics: f64[methods, metrics]."""
    return np.array(
        [[_one(name, index, enlarged) for name in names] for index in range(len(enlarged.made))]
    )


def _one(name: str, index: int, enlarged: Enlarged) -> float:
    made = enlarged.made[index]
    if name in enlarged.distances:
        return enlarged.distances[name][index]
    if name == "consistency":
        scale = len(enlarged.high) // len(enlarged.low)
        return metrics.mean_absolute(bicubic_down(made, scale), enlarged.low)
    return _OF_PAIR[name](made, enlarged.high)


def nuclei(enlarged: Enlarged) -> NDArray[np.int64]:
    """Counts nuclei: [methods, 3], in the high resolution, in the output, and matched."""
    um_per_px = enlarged.subject.um_per_px
    high = find_nuclei(enlarged.high, um_per_px)
    counts = []
    for made in enlarged.made:
        found = find_nuclei(made, um_per_px)
        counts.append([len(high), len(found), matched_nuclei(found, high, um_per_px)])
    return np.array(counts, np.int64).reshape(-1, 3)
