"""What a comparison found: each number of each image, and what it was measured on and by."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesr.errors import RefusedError
from slidesr.runtime.atomic_files import locked_folder, whole_file
from slidesr.runtime.closeable import Closeable

LESS_IS_BETTER = frozenset({"mse", "distance", "vgg19_distance", "fid", "consistency"})
HEADINGS = {  # metric -> what people call it
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "qilv": "QILV",
    "distance": "distance",
    "fid": "FID",
    "consistency": "consistency",
    "psnr_y_db": "PSNR-Y (dB)",
    "mse": "MSE",
    "vgg19_distance": "VGG19 distance",
    "ms_ssim_author": "MS-SSIM, author's",
    "qilv_author": "QILV, author's",
    "running_psnr_db_author": "PSNR, author's (dB)",
}
DIGITS = {"mse": 1, "consistency": 2, "fid": 2, "distance": 3, "vgg19_distance": 3} | dict.fromkeys(
    ("psnr_db", "psnr_y_db", "running_psnr_db_author"), 2
)


@dataclass(frozen=True)
class Subject:
    """One image that was compared."""

    name: str  # its path in DATA, or SLIDE@x,y
    data: str  # its data set
    slide: str = ""  # empty where nothing says so, as `label`
    label: str = ""
    um_per_px: float | None = None  # of the high resolution


def by_data(subjects: Sequence[Subject]) -> dict[str, list[int]]:
    """Data set -> which subjects are of it, both in their order."""
    found: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        found.setdefault(subject.data, []).append(index)
    return found


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one method over a part of the images.

    `low` and `high` bound the mean at 95% (bootstrap); `p` is that of the paired test against
    bicubic (Wilcoxon), None for bicubic itself and where there are too few images.
    """

    scale: int
    method: str
    data: str
    part: str  # "all", "label tumor" or "slide tumor_073"
    unit: str  # what a mean is over: "image" or "slide"
    metric: str
    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Results:
    """All of it, as it stands in results.json; no time, no path and no host is in it."""

    protocol: dict[str, Any]  # what was asked: degradation, scales, seed and so on
    versions: dict[str, str]  # of slidesr, torch, numpy and so on
    methods: dict[int, dict[str, dict[str, Any]]]  # scale -> method, in order -> what it is
    subjects: list[Subject]
    scores: dict[int, dict[str, dict[str, list[float]]]]  # scale -> method -> metric -> by subject
    summary: list[ScoreRow]
    nuclei: list[dict[str, Any]] = field(default_factory=list)  # rows of `nuclei_scores`
    classifier: list[dict[str, Any]] = field(default_factory=list)  # of `classifier_scores`

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `to_json` wrote."""
        table: dict[str, Any] = json.loads(path.read_text())
        for key in ("methods", "scores"):
            table[key] = {int(scale): value for scale, value in table[key].items()}
        table["subjects"] = [Subject(**subject) for subject in table["subjects"]]
        table["summary"] = [ScoreRow(**row) for row in table["summary"]]
        return cls(**table)


_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class ImageScores:
    """Of one image at one scale."""

    scores: _F64  # [methods, metrics]
    embeddings: _F32  # [1 + methods, tiles, d], the first of the high resolution
    nuclei: _I64  # [methods, 3]: in the high resolution, in the method's image, in both; or [0, 3]
    features: _F32  # [1 + methods, d], as `embeddings`; or [0, 0]


class ResultStore(Closeable):
    """Locked against other processes while open; refuses to go on with another comparison."""

    def __init__(self, output: Path, plan: dict[str, Any]) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._folder = output / "unfinished"
        self._lock = locked_folder(output)
        with ExitStack() as undo:
            undo.callback(self.close)
            self._begin(json.dumps(plan, sort_keys=True, indent=1))
            undo.pop_all()

    def _begin(self, plan: str) -> None:
        record = self._folder / "plan.json"
        if record.exists():
            if record.read_text() != plan:
                raise RefusedError(
                    f"{self._folder}: another comparison was stopped here. Give the same options"
                    " to go on with it, another -o, or remove the folder."
                )
            return
        self._folder.mkdir(exist_ok=True)
        with whole_file(record) as file:
            file.write(plan.encode())

    def close(self) -> None:
        os.close(self._lock)

    def has(self, scale: int, index: int) -> bool:
        return self._path(scale, index).exists()

    def get(self, scale: int, index: int) -> ImageScores:
        with np.load(self._path(scale, index)) as file:
            return ImageScores(**file)

    def put(self, scale: int, index: int, found: ImageScores) -> None:
        path = self._path(scale, index)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **vars(found))

    def discard(self) -> None:
        """Once the results stand elsewhere."""
        shutil.rmtree(self._folder)

    def _path(self, scale: int, index: int) -> Path:
        return self._folder / f"x{scale}" / f"{index:06d}.npz"
