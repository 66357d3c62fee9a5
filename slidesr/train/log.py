"""TensorBoard logs and sample pictures of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.runtime.closeable import Closeable
from slidesr.train.validation import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TrainingLog(Closeable):
    """Writes `folder`/tensorboard and `folder`/samples/PATCHES.png; nothing if `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        """Raises RefusedError if TensorBoard is missing. Creates no file until the first entry."""
        self._folder = folder
        self._writer_type = _summary_writer() if folder else None
        self._writer: SummaryWriter | None = None

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def numbers(self, patches: int, values: Mapping[str, float]) -> None:
        """Logs scalars by name at this number of patches."""
        if writer := self._opened():
            for name, value in values.items():
                writer.add_scalar(name, value, patches)

    def scores(self, patches: int, scores: Scores, picture: Pixels) -> None:
        """Logs validation scores and a sample picture, u8[h, w, 3]."""
        writer = self._opened()
        if not self._folder or not writer:
            return
        for data, by_metric in scores.items():
            self.numbers(patches, {f"{metric}/{data}": v for metric, v in by_metric.items()})
        writer.add_image("samples", picture, patches, dataformats="HWC")
        samples = self._folder / "samples"
        samples.mkdir(exist_ok=True)
        Image.fromarray(picture).save(samples / f"{patches:010}.png")

    def _opened(self) -> SummaryWriter | None:
        if self._folder and self._writer_type and not self._writer:
            self._writer = self._writer_type(str(self._folder / "tensorboard"))
        return self._writer


def _summary_writer() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise RefusedError(
            "training writes TensorBoard logs: pip install 'slidesr[train]'"
        ) from error
    return SummaryWriter
