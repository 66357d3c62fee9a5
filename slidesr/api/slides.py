"""Slides and images: upscale, estimate, profile, convert, open, find tissue, load models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.geometry import Mpp, Size
from slidesr.imaging.window import WindowChoice
from slidesr.model.device import Engine
from slidesr.model.model import Model
from slidesr.model.model import load_model as _load_model
from slidesr.model.weights import ModelSpec
from slidesr.model.weights import list_models as _list_models
from slidesr.nets.cost import convolution_ceiling, flops_per_px
from slidesr.output.format import Format
from slidesr.pipeline.batch import OnProgress, SlideOutcome, upscale_all, write_summary
from slidesr.pipeline.convert import convert as _convert
from slidesr.pipeline.executor import Runner, open_runner
from slidesr.pipeline.find_slides import find_items
from slidesr.pipeline.job import Job
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.profile import Profile, Stopwatch
from slidesr.pipeline.run import Progress, Summary
from slidesr.pipeline.run import estimate as _estimate
from slidesr.regions.tissue_mask import Tissue
from slidesr.runtime.names import beside, check_name
from slidesr.runtime.paths import as_typed, is_remote
from slidesr.runtime.sandbox import check_in_sandbox, sandboxed
from slidesr.slide import Slide
from slidesr.slide import open_slide as _open_slide

PathLike = str | os.PathLike[str]


def upscale(
    source: PathLike,
    output: PathLike | None = None,
    *,
    options: Options | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    dask: str | None = None,
) -> Summary:
    """Upscales the tissue of one slide and writes a pyramidal slide.

    `output` ends with .ome.tif, .tif or .ome.zarr; it may be an existing folder, or for OME-Zarr a
    URL. By default it is NAME.x4.ome.tif in the current folder. A run that was stopped earlier is
    resumed, with the same bytes as one that was never stopped. `options.device` names the devices,
    all GPUs by default; `dask` is the address of a cluster's scheduler, or local:N for N processes.

    Raises RefusedError before any work for bad input or an existing output, BusyError where another
    process writes the same output, and SlidesrError if the run fails; the same call resumes it.
    """
    options = options or Options()
    with open_runner(options, dask) as runner, _opened(source, output, runner) as job:
        return runner.run(job, on_progress)


def upscale_many(
    sources: Sequence[PathLike],
    folder: PathLike = ".",
    *,
    options: Options | None = None,
    on_progress: OnProgress = lambda item, now: None,
    on_outcome: Callable[[SlideOutcome], None] = lambda outcome: None,
    dask: str | None = None,
) -> list[SlideOutcome]:
    """Upscales slides, folders of slides and .csv lists (column `slide`) into a folder.

    A failure stops no other slide: it becomes an outcome. Slides that are finished are skipped, and
    stopped ones are resumed. `summary.json` in the folder is rewritten after each slide. On a
    cluster slides run side by side, and `on_progress` is called in several threads.

    Raises RefusedError where there are no slides, or the folder cannot be used.
    """
    folder = Path(folder)
    _check_folder(folder)
    options = options or Options()
    items = find_items([Path(source) for source in sources], folder, options.scale)
    rank = {item: number for number, item in enumerate(items)}
    outcomes: list[SlideOutcome] = []
    with open_runner(options, dask) as runner:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(upscale_all(items, runner, on_progress)) as coming:
            for outcome in coming:
                outcomes.append(outcome)
                outcomes.sort(key=lambda each: rank[each.item])
                write_summary(folder / "summary.json", outcomes)
                on_outcome(outcome)
    return outcomes


@dataclass(frozen=True)
class Estimate:
    """What upscaling a slide would give and cost; seconds, bytes and memory are estimates."""

    output: Path
    size: Size
    levels: int
    mpp: Mpp | None
    model: str
    device: str
    precision: str
    tissue_share: float
    seconds: float
    output_bytes: int
    memory_bytes: int


def estimate(
    source: PathLike, output: PathLike | None = None, *, options: Options | None = None
) -> Estimate:
    """Estimates time, size and memory from one sample of the tissue; writes nothing.

    Raises RefusedError for all that `upscale` refuses.
    """
    with _opened(source, output, Runner(options or Options())) as job:
        cost = _estimate(job)
        return Estimate(
            output=job.output,
            size=job.plan.output,
            levels=len(job.plan.levels),
            mpp=job.output_mpp,
            model=job.model.label,
            device=job.model.engine.device,
            precision=job.model.engine.precision,
            tissue_share=job.tissue_px / job.plan.region.area,
            seconds=cost.seconds,
            output_bytes=cost.output_bytes,
            memory_bytes=cost.memory_bytes,
        )


def profile(
    source: PathLike,
    output: PathLike | None = None,
    *,
    options: Options | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Summary, Profile]:
    """Upscales one slide in this process, and measures where the time goes.

    The trace is written beside the output, for https://ui.perfetto.dev.
    """
    runner = Runner(options or Options())
    with _opened(source, output, runner) as job:
        watch = Stopwatch(keeps_spans=True)
        summary = runner.run(job, on_progress, watch)
        return summary, _profile_of(job, summary, watch)


def open_slide(path: PathLike, *, window: WindowChoice = None) -> Slide:
    """Opens a slide: TIFF, SVS, NDPI, MRXS, DICOM, OME-Zarr and more, or a plain image.

    Use it as a context manager. `window` is for samples of 16 bits, which are refused without one:
    a `Window(low, high)`, or "auto". Raises RefusedError for files that are no readable RGB slide.
    """
    return _open_slide(Path(path), window=window)


def find_tissue(slide: PathLike | Slide) -> Tissue:
    """Finds the tissue on a slide; `.mask` is bool[rows, columns] over the whole slide."""
    if isinstance(slide, Slide):
        return slide.find_tissue()
    with open_slide(slide) as opened:
        return opened.find_tissue()


def load_model(
    name: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    perception: float | None = None,
    ensemble: bool = False,
    tolerance: float | None = None,
) -> Model:
    """Loads a shipped model by name, or a safetensors file by path.

    `model.enlarge` takes an image u8[h, w, 3] and returns u8[h * scale, w * scale, 3]. For
    `perception` (0 to 1), `ensemble` and `tolerance` (grey levels) see `Options`.
    """
    engine = Engine.choose(device, precision)
    return _load_model(name, engine, perception=perception, ensemble=ensemble, tolerance=tolerance)


def list_models() -> list[ModelSpec]:
    """Lists the shipped models by their headers."""
    return [spec for _, spec in _list_models()]


def convert(
    source: PathLike,
    output: PathLike,
    *,
    format: Format | None = None,
    window: WindowChoice = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    overwrite: bool = False,
) -> Path:
    """Writes a slide in another container: .ome.tif, .tif, .ome.zarr, or a folder for DICOM.

    DICOM copies the stored tiles and takes no `format`; the others decode level 0 and build a new
    pyramid. For `window` see `open_slide`. Raises RefusedError for what cannot be converted, before
    anything is written.
    """
    check_in_sandbox(Path(source))
    return _convert(
        Path(source), Path(output), format, on_progress, window=window, overwrite=overwrite
    )


@contextmanager
def _opened(source: PathLike, output: PathLike | None, runner: Runner) -> Iterator[Job]:
    """A checked job; the slide is tried in a sandbox while the model loads."""
    path = Path(source)
    with sandboxed(path):
        model = runner.open_model()
    with prepared(path, None if output is None else Path(output), runner.options, model) as job:
        yield job


def _check_folder(folder: Path) -> None:
    if is_remote(folder):
        raise RefusedError(
            f"{as_typed(folder)}: many slides go into a local folder. To a URL give one at a time,"
            " as an .ome.zarr."
        )
    check_name(folder)
    if folder.exists() and not folder.is_dir():
        raise RefusedError(f"{folder}: is a file. Many slides need a folder: give it with -o.")


def _profile_of(job: Job, summary: Summary, watch: Stopwatch) -> Profile:
    output = Path(job.output.name) if is_remote(job.output) else job.output
    trace = beside(output, ".trace.json")
    trace.write_text(json.dumps(watch.chrome_trace()))
    engine = job.model.engine
    upscaled_px = summary.tissue_px - summary.resumed_px
    return Profile(
        stage_s=watch.seconds,
        network_share=watch.share_from_first_to_last("network"),
        flops=flops_per_px(job.model.spec.generator)
        * job.model.passes
        * upscaled_px
        / summary.seconds,
        ceiling_flops=convolution_ceiling(engine.device, engine.precision),
        trace=trace,
    )
