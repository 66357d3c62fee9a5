"""The results of a comparison: in memory, in results.json, and unfinished on disk."""

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

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]

LESS_IS_BETTER = frozenset({"mse", "distance", "vgg19_distance", "fid", "consistency"})
HEADINGS = {  # metric -> column heading
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
    """One image of the comparison."""

    name: str  # path relative to DATA, or SLIDE@x,y
    data: str  # its data set
    slide: str = ""  # empty if unknown, like `label`
    label: str = ""
    um_per_px: float | None = None  # of the high resolution


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one method, averaged over a part of the images.

    `low` and `high` are the 95% bootstrap interval of the mean. `p` is from the paired Wilcoxon
    test against bicubic; None for bicubic itself and for too few images.
    """

    scale: int
    method: str
    data: str
    part: str  # "all", "label tumor" or "slide tumor_073"
    unit: str  # of the mean: "image" or "slide"
    metric: str
    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Results:
    """The content of results.json; it holds no time, path or host."""

    protocol: dict[str, Any]  # degradation, scales, seed and so on
    versions: dict[str, str]  # of slidesr, torch, numpy and so on
    methods: dict[int, dict[str, dict[str, Any]]]  # scale -> method, in order -> facts
    subjects: list[Subject]
    scores: dict[int, dict[str, dict[str, list[float]]]]  # scale -> method -> metric -> by subject
    summary: list[ScoreRow]
    nuclei: list[dict[str, Any]] = field(default_factory=list)  # rows of `nuclei_scores`
    classifier: list[dict[str, Any]] = field(default_factory=list)  # of `classifier_scores`

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads what `to_json` wrote."""
        table: dict[str, Any] = json.loads(path.read_text())
        for key in ("methods", "scores"):
            table[key] = {int(scale): value for scale, value in table[key].items()}
        table["subjects"] = [Subject(**subject) for subject in table["subjects"]]
        table["summary"] = [ScoreRow(**row) for row in table["summary"]]
        return cls(**table)


@dataclass(frozen=True)
class ImageScores:
    """The measurements of one image at one scale; the field names are those of the stored file."""

    scores: _F64  # [methods, metrics]
    embeddings: _F32  # [1 + methods, tiles, d]; first row: high resolution
    nuclei: _I64  # [methods, 3]: in the high resolution, in the output, matched; or [0, 3]
    features: _F32  # [1 + methods, d], rows as in `embeddings`; or [0, 0]


class ResultStore(Closeable):
    """Image scores of an unfinished comparison, in OUTPUT/unfinished; locked while open.

    Raises RefusedError if the folder belongs to a comparison with other options.
    """

    def __init__(self, output: Path, plan: dict[str, Any]) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._folder = output / "unfinished"
        self._lock = locked_folder(output)
        with ExitStack() as undo:
            undo.callback(self.close)
            self._open(json.dumps(plan, sort_keys=True, indent=1))
            undo.pop_all()

    def _open(self, plan: str) -> None:
        record = self._folder / "plan.json"
        if record.exists():
            if record.read_text() != plan:
                raise RefusedError(
                    f"{self._folder}: holds an unfinished comparison with other options. Give those"
                    " to resume it, give another -o, or remove the folder."
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

    def put(self, scale: int, index: int, scores: ImageScores) -> None:
        path = self._path(scale, index)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **vars(scores))

    def discard(self) -> None:
        """Removes the folder; call it once the results are written."""
        shutil.rmtree(self._folder)

    def _path(self, scale: int, index: int) -> Path:
        return self._folder / f"x{scale}" / f"{index:06d}.npz"


def by_data(subjects: Sequence[Subject]) -> dict[str, list[int]]:
    """Groups the indices of subjects by data set; both keep their order."""
    groups: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        groups.setdefault(subject.data, []).append(index)
    return groups
