"""A job as other processes need it to open the slide and the model themselves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from slidesr.errors import SlidesrError
from slidesr.model.model import Model
from slidesr.pipeline.job import Job, versions
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import frame_of, opened_slide
from slidesr.regions.tissue_mask import Tissue
from slidesr.tiling import TilePlan


@dataclass(frozen=True, eq=False)
class JobSpec:
    """All that another process needs to upscale blocks of a job. Paths are absolute."""

    source: Path
    options: Options
    output: Path
    plan: TilePlan
    tissue: Tissue
    identity: Mapping[str, str]  # of the job: see `Job.identity`

    @classmethod
    def of(cls, job: Job) -> JobSpec:
        model = job.options.model
        if model is not None:
            model = str(_absolute(Path(model)))
        options = replace(job.options, model=model)
        source = _absolute(job.slide.path)
        return cls(source, options, job.output, job.plan, job.tissue, job.identity())

    def opened(self, model: Model) -> Job:
        """Opens the job in this process; the caller closes its slide.

        Raises SlidesrError, naming the differences, where it would give other bytes here.
        """
        slide = opened_slide(self.source, self.options)
        with ExitStack() as undo:
            undo.callback(slide.close)
            frame = frame_of(slide, self.options)
            job = Job(slide, frame, self.output, self.plan, self.tissue, model, self.options)
            self._check(job)
            undo.pop_all()
        return job

    def _check(self, job: Job) -> None:
        own = job.identity()
        other = [name for name, value in self.identity.items() if own.get(name) != value]
        if other:
            engine = job.model.engine
            raise SlidesrError(
                f"has another {', '.join(other)}"
                f" (here: {versions()}, {engine.device}, {engine.precision})."
                " All workers need the same."
            )


def _absolute(path: Path) -> Path:
    """The absolute path of an existing file; names of models and URLs stay as they are."""
    return path.absolute() if path.exists() else path
