"""Scores of a comparison: the final `Results`, and the `Store` of a run that can be resumed."""

from __future__ import annotations

import json
import os
import re
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

_CASE = re.compile(r"(\d{2}-\d+)[A-Z]*")  # BreaKHis: letters name parts of one case
_EMBEDDINGS = "embeddings "  # and the judge's key: names of arrays in a stored file


@dataclass(frozen=True)
class Subject:
    """One compared image."""

    name: str  # path within DATA, or SLIDE@x,y
    data: str  # data set
    slide: str = ""  # empty if unknown, like `label`
    label: str = ""
    um_per_px: float | None = None  # of the high-resolution image

    @property
    def group(self) -> str:
        """The slide or patient, whose images resemble each other; empty if unknown.

        >>> [Subject("", "", slide).group for slide in ("14-22549AB", "tumor_073", "unknown TCGA")]
        ['14-22549', 'tumor_073', '']
        """
        if self.slide.lower().startswith("unknown"):
            return ""
        case = _CASE.fullmatch(self.slide)
        return case[1] if case else self.slide


def by_data(subjects: Sequence[Subject]) -> dict[str, list[int]]:
    """Maps each data set to the indices of its subjects, both in input order."""
    indices: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        indices.setdefault(subject.data, []).append(index)
    return indices


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one method, averaged over a subset of the images.

    `low` and `high` are the mean's 95% confidence interval (bootstrap). `p` is the p-value of the
    paired Wilcoxon test against bicubic; None for bicubic itself and if there are too few images.
    """

    scale: int
    method: str
    data: str
    part: str  # "all", "label tumor" or "slide tumor_073"
    unit: str  # unit of averaging: "image" or "slide"
    metric: str
    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    own_loss: bool = False  # judged by the network of the method's own loss


@dataclass(frozen=True)
class PairRow:
    """One metric of a model minus that of the model it belongs with, averaged over units.

    `low` and `high` are the mean's 95% confidence interval (bootstrap), `p` is the p-value of the
    paired Wilcoxon test; None if there are too few units. PSNR between the two outputs, at most
    100 dB, is over images.
    """

    scale: int
    data: str
    method: str
    other: str
    relation: str  # how they belong together
    agreement_mean_db: float
    agreement_max_db: float
    verdict: str  # what the agreement means
    metric: str
    unit: str  # unit of averaging: "image" or "slide"
    n: int
    difference: float  # method - other
    low: float | None
    high: float | None
    p: float | None
    own_loss: bool = False  # judged by the loss network of one of the two


@dataclass(frozen=True)
class TaskRow:
    """One figure of one method on a downstream task, over the images of a data set.

    `low` and `high` are its 95% confidence interval (bootstrap over `units` slides or images).
    Figures of the classifier are means over seeds, with the standard deviation over seeds.
    """

    scale: int
    method: str
    data: str
    part: str  # the classifier's task; size of nuclei, or "all"
    metric: str
    n: int  # images
    value: float | None
    low: float | None
    high: float | None
    unit: str  # that is resampled: "image" or "slide"
    units: int
    seed_sd: float | None = None


@dataclass(frozen=True)
class Results:
    """The contents of results.json, free of times, paths and host names."""

    protocol: dict[str, Any]  # degradation, scales, seed and other options
    versions: dict[str, str]  # of slidesr, torch, numpy and so on
    methods: dict[int, dict[str, dict[str, Any]]]  # scale -> method, in order -> facts
    subjects: list[Subject]
    scores: dict[int, dict[str, dict[str, list[float]]]]  # scale -> method -> metric -> subject
    summary: list[ScoreRow]
    nuclei: list[TaskRow] = field(default_factory=list)
    classifier: list[TaskRow] = field(default_factory=list)
    pairs: list[PairRow] = field(default_factory=list)  # models that belong together

    @property
    def headline(self) -> str:
        """The key of the judge whose metrics stand in the first tables; empty if there is none."""
        return str(self.protocol["headline_judge"])

    def loss_networks(self, scale: int) -> dict[str, list[str]]:
        """Method -> the networks of its losses, as far as they are known."""
        return {
            name: list(facts.get("loss networks", []))
            for name, facts in self.methods[scale].items()
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads a file written by `to_json`."""
        table: dict[str, Any] = json.loads(path.read_text())
        for key in ("methods", "scores"):
            table[key] = {int(scale): value for scale, value in table[key].items()}
        table["subjects"] = [Subject(**subject) for subject in table["subjects"]]
        table["summary"] = [ScoreRow(**row) for row in table["summary"]]
        table["pairs"] = [PairRow(**row) for row in table["pairs"]]
        for key in ("nuclei", "classifier"):
            table[key] = [TaskRow(**row) for row in table[key]]
        return cls(**table)


@dataclass(frozen=True)
class Found:
    """All measurements of one image at one scale."""

    scores: _F64  # [methods, metrics]
    embeddings: dict[str, _F32]  # judge -> [1 + methods, tiles, d], high resolution first
    nuclei: _F64  # [methods, sizes, COUNTS] of `compared_nuclei`; no methods if not counted
    probabilities: _F32  # [seeds, 2 + methods], high and low resolution first; or [0, 0]
    agreement_db: _F64  # [pairs]: PSNR between the outputs of models that belong together


class Store(Closeable):
    """Measurements of an unfinished comparison in OUTPUT/unfinished, one file per image and scale.

    Locks OUTPUT against other processes while open. Raises RefusedError if the folder belongs to a
    comparison with a different plan.
    """

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
                    f"{self._folder}: holds an unfinished comparison with other options. Use the"
                    " same options to resume it, choose another -o, or delete the folder."
                )
            return
        self._folder.mkdir(exist_ok=True)
        with whole_file(record) as file:
            file.write(plan.encode())

    def close(self) -> None:
        os.close(self._lock)

    def has(self, scale: int, index: int) -> bool:
        return self._path(scale, index).exists()

    def get(self, scale: int, index: int) -> Found:
        with np.load(self._path(scale, index)) as file:
            embeddings = {
                name.removeprefix(_EMBEDDINGS): file[name]
                for name in file
                if name.startswith(_EMBEDDINGS)
            }
            others = {name: file[name] for name in file if not name.startswith(_EMBEDDINGS)}
            return Found(embeddings=embeddings, **others)

    def put(self, scale: int, index: int, found: Found) -> None:
        path = self._path(scale, index)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            arrays = dict(vars(found))
            for key, embeddings in arrays.pop("embeddings").items():
                arrays[_EMBEDDINGS + key] = embeddings
            np.savez(file, **arrays)

    def discard(self) -> None:
        """Deletes the stored measurements, once the results have been written elsewhere."""
        shutil.rmtree(self._folder)

    def _path(self, scale: int, index: int) -> Path:
        return self._folder / f"x{scale}" / f"{index:06d}.npz"
