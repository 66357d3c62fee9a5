"""A job: a slide, a plan, a model and an output that have been checked and fit together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from slidesr import __version__
from slidesr.errors import RefusedError, SlidesrError, printable
from slidesr.geometry import Mpp
from slidesr.model.model import Model
from slidesr.output.metadata import Metadata
from slidesr.output.staging import identity_of
from slidesr.pipeline.block_upscaler import BlockUpscaler
from slidesr.pipeline.options import Options
from slidesr.pipeline.tile_size import Tuner, remembered
from slidesr.regions.tissue_mask import Tissue
from slidesr.slide import Frame, Slide
from slidesr.tiling import CELL_PX, Block, TilePlan


@dataclass(frozen=True)
class Job:
    """A slide, plan, tissue mask, model and output that have been checked and fit together."""

    slide: Slide
    frame: Frame
    output: Path
    plan: TilePlan
    tissue: Tissue
    model: Model
    options: Options

    @property
    def output_mpp(self) -> Mpp | None:
        return self.frame.mpp * (1 / self.plan.scale) if self.frame.mpp else None

    @cached_property
    def upscaler(self) -> BlockUpscaler:
        return BlockUpscaler(self.frame, self.plan, self.tissue, self.model, self.tuner)

    @cached_property
    def tuner(self) -> Tuner:
        """Chooses tile sizes by the rates that runs have measured on this machine."""
        return Tuner.up_to(self.plan.tile_px, remembered(self.model.machine))

    @cached_property
    def tissue_px(self) -> int:
        """Source pixels that go through the network; counted once, over all blocks."""
        upscaler = self.upscaler
        return sum(tissue_px(upscaler, block) for block in self.plan.blocks())

    @property
    def about_bytes(self) -> int:
        """A rough estimate of the output's size; half or twice as much is common."""
        tissue = self.tissue_px * self.plan.scale**2
        return int(tissue * self.options.format.bytes_per_px(self.output))

    def identity(self) -> dict[str, str]:
        """Hashes of all that decides the output's bytes, by names that a user knows.

        A stopped run is resumed only with the same identity.
        """
        options, engine = self.options, self.model.engine
        kind = engine.device.partition(":")[0]
        parts: dict[str, object] = {
            "slide": (*self.slide.stamp, self.frame.level, self.frame.mpp),
            "model": (self.model.sha256, self.model.label),
            "device": (kind, engine.precision, self.model.batch_size),
            "version": versions(),
            "tissue mask": (self.tissue.mask.tobytes(), self.tissue.glass),
            "plan (scale, level, crop)": self.plan,
            "compression": options.format,
            "metadata": (replace(self.metadata(), provenance={}), self._kept_metadata()),
            "way with bad tiles": options.on_bad_tile,
            "way with colour": (options.icc, self.slide.window),
        }
        return identity_of(parts)

    def metadata(self) -> Metadata:
        magnification = self.frame.magnification
        return Metadata(
            mpp=self.output_mpp,
            magnification=magnification * self.plan.scale if magnification else None,
            icc_profile=self.slide.icc_profile,
            provenance=self._provenance(),
        )

    def _provenance(self) -> dict[str, str]:
        region = self.plan.region
        return {
            "synthetic": "true",
            "notice": "Upscaled by a neural network. Details are invented. Not for diagnosis.",
            "software": f"slidesr {__version__}",
            "model": self.model.spec.name,
            "model_sha256": self.model.sha256,
            **self._model_choices(),
            "precision": self.model.engine.precision,
            "scale": str(self.plan.scale),
            "source_mpp": str(self.frame.mpp) if self.frame.mpp else "unknown",
            "source_level": str(self.frame.level),
            "source_region": str(region),
            "tissue_share": f"{self.tissue.share:.4f}",
            **self.slide.window_note,
            **self._kept_metadata(),
        }

    def _model_choices(self) -> dict[str, str]:
        choices = {"perception": self.model.perception, "tolerance": self.model.tolerance}
        made = {name: f"{value:g}" for name, value in choices.items() if value is not None}
        return made | ({"ensemble": "true"} if self.model.ensemble else {})

    def _kept_metadata(self) -> dict[str, str]:
        """The slide's properties that the user chose to carry over."""
        properties = self.slide.properties
        for name in self.options.keep_metadata:
            if name not in properties:
                has = ", ".join(sorted(properties)) or "none"
                raise RefusedError(f"{self.slide.path}: no metadata {name!r}; it has: {has}")
        kept = {name: printable(properties[name]) for name in self.options.keep_metadata}
        return {f"source.{name}": value for name, value in kept.items()}

    def check_unchanged(self, begun: tuple[int, int]) -> None:
        """Raises SlidesrError if the slide has changed since the run began, by its stamp then."""
        if self.slide.stamp != begun:
            raise SlidesrError(
                f"{self.slide.path}: changed while it was read, so nothing is published."
                " Start over with --overwrite."
            )


def versions() -> str:
    """Versions of the software that decides the output's bytes."""
    return ", ".join(f"{name} {version(name)}" for name in ("slidesr", "torch", "imagecodecs"))


def tissue_px(upscaler: BlockUpscaler, block: Block) -> int:
    """Tissue of a block in source pixels, counted by cells; at most the block itself."""
    return min(int(upscaler.tissue_cells(block).sum()) * CELL_PX**2, block.source.area)
