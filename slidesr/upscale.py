"""The main job: a slide in, an upscaled slide out."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from threading import Lock

from slidesr import __version__
from slidesr.errors import RefusedError
from slidesr.geometry import Box, Mpp, Size
from slidesr.model import Engine, Model, load_model
from slidesr.output.compression import Compression
from slidesr.output.metadata import Metadata
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.part import sweep
from slidesr.output.pyramid import EncodedBlock, Painted, encode_block
from slidesr.painter import Painter, Raw
from slidesr.plan import CELL_PX, Block, Plan
from slidesr.roi import read_roi, roi_mask
from slidesr.schedule import ordered_map
from slidesr.slide import Frame, Slide, open_slide
from slidesr.tissue import Tissue, all_tissue, find_tissue, read_mask
from slidesr.weights import default_model

_log = logging.getLogger(__name__)
_THUMBNAIL_PX = 2048
_TILE_PX = 256
_FAR = 2  # a pixel size this many times outside the training's gets a warning
_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff")


@dataclass(frozen=True)
class Options:
    """Everything a user may choose. At most one of level, mpp and magnification is given."""

    scale: int = 4
    model: str | None = None  # a shipped model's name or a file; the scale's default if None
    perception: float | None = None  # from the model's fidelity weights, 0, to its own, 1
    tolerance: float | None = None  # grey levels; the result shrinks to its source to that
    level: int | None = None
    mpp: float | None = None
    magnification: float | None = None
    source_mpp: float | None = None  # level 0's, where the file does not say
    crop: Box | None = None  # level-0 pixels
    roi: Path | None = None
    tissue: str = "auto"  # auto, all, or the path of a mask
    compression: Compression = field(default_factory=Compression)
    layout: str = "hybrid"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 16
    num_workers: int = 2
    overwrite: bool = False


@dataclass(frozen=True)
class Job:
    """A run that was checked and found possible."""

    slide: Slide
    frame: Frame
    output: Path
    plan: Plan
    tissue: Tissue
    model: Model
    options: Options

    @property
    def output_mpp(self) -> Mpp | None:
        return self.frame.mpp * (1 / self.plan.scale) if self.frame.mpp else None

    @cached_property
    def painter(self) -> Painter:
        return Painter(self.frame, self.plan, self.tissue, self.model)

    @cached_property
    def tissue_px(self) -> int:
        """The source pixels that go through the network; counted once, over all blocks."""
        painter = self.painter
        return sum(_tissue_px(painter, block) for block in self.plan.blocks())

    @property
    def about_bytes(self) -> int:
        """A rough guess of the output's size: half as much and twice as much are common."""
        tissue = self.tissue_px * self.plan.scale**2
        return int(tissue * self.options.compression.bytes_per_px)

    def identity(self) -> dict[str, str]:
        """All that decides the output's bytes, hashed by the name that a user knows it by.

        Whoever goes on with a stopped run must bring the same.
        """
        options, engine, path = self.options, self.model.engine, self.slide.path
        about = path.stat()
        kind = engine.device.partition(":")[0]
        told: dict[str, object] = {
            "slide": (about.st_size, about.st_mtime_ns, self.frame.level, self.frame.mpp),
            "model": (self.model.sha256, self.model.spec.name),
            "device": (kind, engine.precision, self.model.batch_size),
            "version": [(name, version(name)) for name in ("slidesr", "torch", "imagecodecs")],
            "tissue mask": (self.tissue.mask.tobytes(), self.tissue.glass),
            "plan (scale, level, crop)": self.plan,
            "compression": (options.compression, options.layout),
            "metadata": replace(self.metadata(), provenance={}),  # its facts are told above
        }
        return {name: sha256(repr(each).encode()).hexdigest() for name, each in told.items()}

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
            "precision": self.model.engine.precision,
            "scale": str(self.plan.scale),
            "source_mpp": str(self.frame.mpp) if self.frame.mpp else "unknown",
            "source_level": str(self.frame.level),
            "source_region": f"{region.x},{region.y},{region.width},{region.height}",
            "tissue_share": f"{self.tissue.share:.4f}",
        }


@dataclass(frozen=True)
class Progress:
    """How far a run is; pixels are source pixels.

    Of the tissue `resumed_px` were there already, made by a run that was stopped.
    """

    source_px: int
    tissue_px: int
    resumed_px: int = 0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.source_px + other.source_px,
            self.tissue_px + other.tissue_px,
            self.resumed_px + other.resumed_px,
        )


@dataclass(frozen=True)
class Summary:
    """What a run did. `stage_s` are busy seconds, added over a stage's threads."""

    output: Path
    source: Size
    size: Size
    levels: int
    source_mpp: Mpp | None
    mpp: Mpp | None
    magnification: float | None
    tissue_share: float
    tissue_px: int
    resumed_px: int  # see `Progress`
    model: str
    device: str
    precision: str
    output_bytes: int
    seconds: float
    stage_s: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a run would take, from the tile and the file size of one sample of tissue."""

    seconds: float
    output_bytes: int
    memory_bytes: int


@contextmanager
def prepared(source: Path, output: Path | None, options: Options) -> Iterator[Job]:
    """Opens and checks everything that a run needs; nothing is written.

    Raises RefusedError for whatever would make the run impossible.
    """
    with open_slide(source, mpp=_source_mpp(options)) as slide:
        output = output or Path(f"{_stem(source)}.x{options.scale}.ome.tif")
        _check_output(output, source, overwrite=options.overwrite)
        frame = slide.frame(
            level=options.level, mpp=options.mpp, magnification=options.magnification
        )
        region = frame.box_from_level0(options.crop) if options.crop else frame.size.box
        if region.area == 0:
            raise RefusedError(f"{source}: the crop {options.crop} lies outside the slide")
        tissue = _tissue(slide, options)
        engine = Engine.choose(options.device, options.precision, options.batch_size)
        name = options.model or default_model(options.scale)
        model = load_model(name, engine, perception=options.perception, tolerance=options.tolerance)
        if model.scale != options.scale:
            raise RefusedError(
                f"model {model.spec.name} is for x{model.scale}, not x{options.scale}"
            )
        _warn_of_pixel_size(source, frame, model)
        tiles = model.batch_size
        plan = Plan.near(_TILE_PX, region, model.scale, model.window_px, tiles=tiles)
        yield Job(slide, frame, output, plan, tissue, model, options)


def upscale(job: Job, report: Callable[[Progress], None] = lambda progress: None) -> Summary:
    """Runs a job and publishes its output whole.

    Reading, the network, and encoding overlap; at most a few blocks are held between two stages,
    so peak memory does not grow with the slide.
    """
    started = time.monotonic()
    plan, painter = job.plan, job.painter
    watch = _Stopwatch()
    with _writer(job) as writer:
        done = _progress(painter, islice(plan.blocks(), writer.resumed))
        done = replace(done, resumed_px=done.tissue_px)
        report(done)
        with closing(_encoded_blocks(job, writer, watch)) as blocks:
            for encoded in blocks:
                with watch("write"):
                    writer.append(encoded)
                with watch("checkpoint"):
                    writer.settle(encoded.block.index + 1)
                done += _progress(painter, [encoded.block])
                report(done)
        with watch("publish"):
            output_bytes = writer.finish()
    return _summary(job, done, output_bytes, time.monotonic() - started, watch.seconds)


def estimate(job: Job) -> Estimate:
    """Times and encodes one sample of the tissue, and scales it up to the job."""
    plan = replace(job.plan, block_doublings=1)
    painter = Painter(job.frame, plan, job.tissue, job.model)
    sample = max(plan.blocks(), key=lambda block: _tissue_px(painter, block))
    raw = painter.read(sample)
    painter.paint(raw)  # the first pass pays for the kernels' set-up
    started = time.monotonic()
    encoded = encode_block(painter.paint(raw), plan, job.options.compression.encode)
    seconds = time.monotonic() - started
    share = job.tissue_px / max(1, _tissue_px(painter, sample))
    stored = sum(len(tile.data or b"") for tile in encoded.tiles)
    bytes_in_flight = 8 * plan.scale**2 * 3 * (4 * plan.block_px // plan.scale) ** 2
    return Estimate(seconds * share, int(stored * share), _peak_memory() + bytes_in_flight)


def _writer(job: Job) -> OmeTiffWriter:
    return OmeTiffWriter(
        job.output,
        job.plan,
        job.metadata(),
        job.options.compression,
        glass=job.tissue.glass,
        layout=job.options.layout,
        overwrite=job.options.overwrite,
        identity=job.identity(),
        needed_bytes=job.about_bytes,
    )


def _encoded_blocks(
    job: Job, writer: OmeTiffWriter, watch: _Stopwatch
) -> Generator[EncodedBlock, None, None]:
    """The pipeline of the blocks that are not there yet: threads read ahead and encode behind.

    The network has the caller's thread. There it needs no hand-over, and glibc keeps its freed
    memory (see `slidesr.model`), which it does for the main thread alone.
    """
    painter = job.painter

    def read(block: Block) -> Raw:
        with watch("read"):
            return painter.read(block)

    def paint(raws: Generator[Raw, None, None]) -> Iterator[Painted]:
        with closing(raws):
            for raw in raws:
                with watch("network"):
                    painted = painter.paint(raw)
                yield painted

    def encode(painted: Painted) -> EncodedBlock:
        with watch("encode"):
            return writer.encode(painted)

    workers = job.options.num_workers
    todo = islice(job.plan.blocks(), writer.resumed, None)
    raws = ordered_map(read, todo, workers=workers, ahead=workers + 1)
    return ordered_map(encode, paint(raws), workers=workers, ahead=workers + 1)


class _Stopwatch:
    """Busy seconds by stage, added over threads."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[stage] += time.monotonic() - started  # type: ignore[assignment]

    @property
    def seconds(self) -> dict[str, float]:
        return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}


def _source_mpp(options: Options) -> Mpp | None:
    if options.source_mpp is None:
        return None
    try:
        return Mpp(options.source_mpp, options.source_mpp)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _tissue(slide: Slide, options: Options) -> Tissue:
    """The tissue mask that the options ask for, inside the region of interest if there is one."""
    if options.tissue == "all":
        tissue = all_tissue()
    else:
        mask = None if options.tissue == "auto" else read_mask(Path(options.tissue), slide.size)
        thumbnail = slide.thumbnail(_THUMBNAIL_PX)
        scale = slide.size.width / thumbnail.shape[1]
        tissue = find_tissue(thumbnail, um_per_px=slide.mpp.mean * scale if slide.mpp else None)
        tissue = replace(mask, glass=tissue.glass) if mask else tissue
    return tissue if options.roi is None else _inside(options.roi, slide, tissue)


def _inside(roi: Path, slide: Slide, tissue: Tissue) -> Tissue:
    """The tissue that lies in a region of interest."""
    shrink = max(1.0, max(slide.size.width, slide.size.height) / _THUMBNAIL_PX)
    size = Size(*(max(1, round(side / shrink)) for side in (slide.size.width, slide.size.height)))
    inside = roi_mask(read_roi(roi), slide.size, size)
    if not inside.any():
        raise RefusedError(f"{roi}: lies wholly outside the slide; its unit is level-0 pixels")
    return tissue.restricted(inside)


def _progress(painter: Painter, blocks: Iterable[Block]) -> Progress:
    parts = [Progress(block.source.area, _tissue_px(painter, block)) for block in blocks]
    return sum(parts, Progress(0, 0))


def _tissue_px(painter: Painter, block: Block) -> int:
    """Tissue of a block in source pixels, by cells; never more than the block itself."""
    return min(int(painter.tissue_cells(block).sum()) * CELL_PX**2, block.source.area)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def _check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    if not output.name.lower().endswith(_SUFFIXES):
        raise RefusedError(f"{output}: the name must end with one of {', '.join(_SUFFIXES)}")
    if not output.parent.is_dir():
        raise RefusedError(f"{output}: there is no folder {output.parent}. Make it first.")
    if output.exists() and output.samefile(source):
        raise RefusedError(f"{output}: is the input itself. Choose another output.")
    sweep(output)
    if output.exists() and not overwrite:
        raise RefusedError(f"{output}: exists already. Replace it with --overwrite.")
    if not os.access(output.parent, os.W_OK):
        raise RefusedError(f"{output}: the folder {output.parent} may not be written to")


def _warn_of_pixel_size(source: Path, frame: Frame, model: Model) -> None:
    finest, coarsest = model.spec.trained_um_per_px
    if frame.mpp is None:
        _log.warning(
            "%s: no pixel size, so none is written. Give it with --source-mpp.", source.name
        )
    elif not finest / _FAR <= frame.mpp.mean <= coarsest * _FAR:
        _log.warning(
            "%s: %s um/px is outside the %.3g-%.3g um/px that %s was trained on;"
            " expect worse results. Another --level or --mpp may fit.",
            *(source.name, frame.mpp, finest, coarsest, model.spec.name),
        )


def _peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _summary(
    job: Job, done: Progress, output_bytes: int, seconds: float, stage_s: dict[str, float]
) -> Summary:
    metadata = job.metadata()
    return Summary(
        output=job.output,
        source=job.plan.region.size,
        size=job.plan.output,
        levels=len(job.plan.levels),
        source_mpp=job.frame.mpp,
        mpp=metadata.mpp,
        magnification=metadata.magnification,
        tissue_share=done.tissue_px / done.source_px,
        tissue_px=done.tissue_px,
        resumed_px=done.resumed_px,
        model=job.model.spec.name,
        device=job.model.engine.device,
        precision=job.model.engine.precision,
        output_bytes=output_bytes,
        seconds=seconds,
        stage_s=stage_s,
        peak_memory_bytes=_peak_memory(),
    )
