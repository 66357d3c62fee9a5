"""What a comparison has found so far, so that a stopped one goes on.

OUTPUT/unfinished/plan.json            what is compared, on what
OUTPUT/unfinished/x4/000012.npz        the scores of one image at one scale, by all methods
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesr.closing import Closing
from slidesr.durable import locked_folder, whole_file
from slidesr.errors import RefusedError

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Of one image at one scale."""

    scores: _F64  # [methods, metrics]
    embeddings: _F32  # [1 + methods, tiles, d], the first of the high resolution
    nuclei: _I64  # [methods, 3]: in the high resolution, in the method's image, in both; or [0, 3]
    features: _F32  # [1 + methods, d], as `embeddings`; or [0, 0]


class Store(Closing):
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

    def get(self, scale: int, index: int) -> Found:
        with np.load(self._path(scale, index)) as file:
            return Found(**file)

    def put(self, scale: int, index: int, found: Found) -> None:
        path = self._path(scale, index)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **vars(found))

    def discard(self) -> None:
        """Once the results stand elsewhere."""
        shutil.rmtree(self._folder)

    def _path(self, scale: int, index: int) -> Path:
        return self._folder / f"x{scale}" / f"{index:06d}.npz"
