"""The comparison of methods on images whose high resolution is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidesr import metrics
from slidesr.errors import RefusedError
from slidesr.images import group_of, image_paths, read_rgb
from slidesr.model import Model
from slidesr.perceptual import Eye
from slidesr.resample import back_projected, bicubic_down, bicubic_up, through_jpeg

_U8 = npt.NDArray[np.uint8]
_F64 = npt.NDArray[np.float64]
_TRUE = "high resolution"


@dataclass(frozen=True)
class Score:
    """The metrics of one image, or their means; see `slidesr.metrics` for each."""

    psnr_db: float
    ssim: float
    ms_ssim: float
    qilv: float
    distance: float  # perceptual; see `slidesr.perceptual`


def score_folder(
    folder: Path,
    scale: int,
    models: list[Model],
    report: Callable[[int, int], None],
    *,
    jpeg_quality: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Data set -> method -> metric -> mean over its images; a data set is a folder in `folder`.

    "fid" is no mean: it is the Frechet distance of all made tiles from all true ones.

    The protocol: an image is cut to a multiple of the scale, made small by Pillow's antialiased
    bicubic at 8 bits, compressed if `jpeg_quality` says so, enlarged by each method, and compared
    in RGB at 8 bits. `report` is told how many images of how many are done.
    """
    paths, methods, eye = image_paths(folder), _methods(scale, models), Eye()
    scores: dict[str, dict[str, list[Score]]] = {}
    seen: dict[str, dict[str, list[_F64]]] = {}
    for done, path in enumerate(paths, start=1):
        high = _cut(read_rgb(path), scale)
        low = bicubic_down(high, scale)
        if jpeg_quality is not None:
            low = through_jpeg(low, jpeg_quality)
        group = group_of(path, folder)
        data = scores.setdefault(group, {name: [] for name in methods})
        looks = seen.setdefault(group, {name: [] for name in (_TRUE, *methods)})
        looks[_TRUE].append(eye.embeddings(high))
        for name, enlarge in methods.items():
            made = enlarge(low)
            try:
                data[name].append(score(made, high, eye))
            except ValueError as error:
                raise RefusedError(f"{path}: {error}") from error
            looks[name].append(eye.embeddings(made))
        report(done, len(paths))
    return {
        data: {
            name: asdict(_mean(values)) | {"fid": _fid(seen[data], name)}
            for name, values in by_method.items()
        }
        for data, by_method in scores.items()
    }


def _fid(looks: dict[str, list[_F64]], name: str) -> float:
    return metrics.frechet(np.concatenate(looks[name]), np.concatenate(looks[_TRUE]))


def _methods(scale: int, models: list[Model]) -> dict[str, Callable[[_U8], _U8]]:
    """What enlarges by the scale, by name: the two that learn nothing first."""
    names = [model.spec.name for model in models]
    for model in models:
        if model.scale != scale:
            raise RefusedError(f"model {model.spec.name} is x{model.scale}, not x{scale}")
        if names.count(model.spec.name) > 1:
            raise RefusedError(f"two models are named {model.spec.name}")
    return {
        "bicubic": lambda low: bicubic_up(low, scale),
        "bicubic + back-projection": lambda low: back_projected(low, scale),
        **{model.spec.name: model.enlarge for model in models},
    }


def score(image: _U8, reference: _U8, eye: Eye) -> Score:
    """All metrics of one image, both u8[h, w, 3]."""
    return Score(
        psnr_db=metrics.psnr_db(image, reference),
        ssim=metrics.ssim(image, reference),
        ms_ssim=metrics.ms_ssim(image, reference),
        qilv=metrics.qilv(image, reference),
        distance=eye.distance(image, reference),
    )


def _mean(scores: list[Score]) -> Score:
    rows = np.array([list(asdict(score).values()) for score in scores])
    return Score(*map(float, rows.mean(axis=0)))


def _cut(image: _U8, scale: int) -> _U8:
    height, width = (side // scale * scale for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])
