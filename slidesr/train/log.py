"""TensorBoard curves and sample pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from slidesr.geometry import Pixels
from slidesr.runtime.closeable import Closeable
from slidesr.train.validation import Scores


class TrainingLog(Closeable):
    """Writes TensorBoard events and samples/PATCHES.png to `folder`; nothing if it is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writer = folder and SummaryWriter(str(folder / "tensorboard"))

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def numbers(self, patches: int, values: Mapping[str, float]) -> None:
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, patches)

    def scores(self, patches: int, scores: Scores, picture: Pixels) -> None:
        """Logs validation scores and a picture u8[h, w, 3]."""
        if not self._folder or not self._writer:
            return
        for data, by_metric in scores.items():
            self.numbers(patches, {f"{metric}/{data}": v for metric, v in by_metric.items()})
        self._writer.add_image("samples", picture, patches, dataformats="HWC")
        samples = self._folder / "samples"
        samples.mkdir(exist_ok=True)
        Image.fromarray(picture).save(samples / f"{patches:010}.png")
