"""Runs a job: reading, the network and encoding overlap, and the output appears whole."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from slidesr.geometry import Box, Mpp, Size
from slidesr.output.pyramid import EncodedBlock, UpscaledBlock, encode_block
from slidesr.output.staging import Target
from slidesr.output.writer import BlockEncoder, SlideWriter, open_writer
from slidesr.pipeline.block_upscaler import BlockInput, BlockUpscaler
from slidesr.pipeline.job import Job, tissue_px
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.tile_size import remember
from slidesr.runtime.ordered_map import ordered_map
from slidesr.tiling import Block

_FILLED = "filled_source_tiles"


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

    input: Path
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
    filled_tiles: tuple[str, ...]  # unreadable source tiles: LEVEL:X,Y,WIDTH,HEIGHT in its pixels
    model: str
    device: str
    precision: str
    output_bytes: int
    seconds: float
    stage_s: dict[str, float]
    peak_memory_bytes: int

    @property
    def exit_code(self) -> int:
        """0, or 3 where unreadable source tiles are background."""
        return 3 if self.filled_tiles else 0


@dataclass(frozen=True)
class CostEstimate:
    """What a run would take, from the tile and the file size of one sample of tissue."""

    seconds: float
    output_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class BlockResult:
    """A block as it is stored, and the unreadable source tiles that its maker has met so far."""

    encoded: EncodedBlock
    filled: frozenset[tuple[int, Box]]


Executor = Callable[
    [Job, BlockEncoder, Iterator[Block], Stopwatch], Generator[BlockResult, None, None]
]
"""What makes the blocks of a job, in their order."""


def upscale(
    job: Job,
    report: Callable[[Progress], None] = lambda progress: None,
    watch: Stopwatch | None = None,
    make: Executor | None = None,
) -> Summary:
    """Runs a job and publishes its output whole; blocks are made here unless `make` says where.

    Reading, the network, and encoding overlap; at most a few blocks are held between two stages,
    so peak memory does not grow with the slide.
    """
    plan, painter = job.plan, job.painter
    watch, begun = watch or Stopwatch(), job.slide.stamp
    with _sink(job) as sink:
        done = _progress(painter, islice(plan.blocks(), sink.resumed))
        done = replace(done, resumed_px=done.tissue_px)
        report(done)
        todo = islice(plan.blocks(), sink.resumed, None)
        with closing((make or by_threads)(job, sink.encode, todo, watch)) as blocks:
            for made in blocks:
                block = made.encoded.block
                with watch("write"):
                    sink.append(made.encoded)
                    _note_filled_tiles(made, sink)
                with watch("checkpoint"):
                    sink.settle(block.index + 1)
                done += _progress(painter, [block])
                report(done)
        job.check_unchanged(begun)
        if make is None:
            remember(job.model.machine, job.tuner.rates)
        with watch("publish"):
            output_bytes = sink.finish()
    return _summary(job, done, sink.notes, output_bytes, watch)


def estimate(job: Job) -> CostEstimate:
    """Times and encodes one sample of the tissue, and scales it up to the job."""
    plan = replace(job.plan, block_doublings=min(2, job.plan.block_doublings))
    painter = BlockUpscaler(job.frame, plan, job.tissue, job.model)
    sample = max(plan.blocks(), key=lambda block: tissue_px(painter, block))
    raw = painter.read(sample)
    painter.paint(raw)  # the first pass pays for the kernels' set-up
    started = time.monotonic()
    encoded = encode_block(painter.paint(raw), plan, job.options.format.compression.encode)
    seconds = time.monotonic() - started
    share = job.tissue_px / max(1, tissue_px(painter, sample))
    stored = sum(len(tile.data or b"") for tile in encoded.tiles)
    bytes_in_flight = 8 * 3 * job.plan.block_px**2
    return CostEstimate(seconds * share, int(stored * share), _peak_memory() + bytes_in_flight)


def _note_filled_tiles(made: BlockResult, sink: SlideWriter) -> None:
    """Adds the source tiles that could not be read to what earlier runs have met."""
    met = {f"{level}:{b.x},{b.y},{b.width},{b.height}" for level, b in made.filled}
    if met:
        sink.notes[_FILLED] = " ".join(sorted(met.union(sink.notes.get(_FILLED, "").split())))


def _sink(job: Job) -> SlideWriter:
    target = Target(
        job.output,
        job.plan,
        job.metadata(),
        job.tissue.glass,
        job.options.overwrite,
        job.identity(),
        job.about_bytes,
    )
    return open_writer(target, job.options.format)


def by_threads(
    job: Job, encode: BlockEncoder, todo: Iterator[Block], watch: Stopwatch
) -> Generator[BlockResult, None, None]:
    """The pipeline in this process, a `Executor`: threads read ahead and encode behind.

    The network has the caller's thread. There it needs no hand-over, and glibc keeps its freed
    memory (see `slidesr.model.device`), which it does for the main thread alone.
    """
    painter = job.painter

    def read(block: Block) -> BlockInput:
        with watch("read"):
            return painter.read(block)

    def paint(raws: Generator[BlockInput, None, None]) -> Iterator[UpscaledBlock]:
        with closing(raws):
            while True:
                with watch("wait for reading"):
                    raw = next(raws, None)
                if raw is None:
                    return
                with watch("network"):
                    painted = painter.paint(raw)
                yield painted

    def store(painted: UpscaledBlock) -> BlockResult:
        with watch("encode"):
            return BlockResult(encode(painted), job.slide.filled_tiles)

    workers = job.options.num_workers
    raws = ordered_map(read, todo, workers=workers, ahead=workers + 1)
    return ordered_map(store, paint(raws), workers=workers, ahead=workers + 1, prompt=True)


def _progress(painter: BlockUpscaler, blocks: Iterable[Block]) -> Progress:
    parts = [Progress(block.source.area, tissue_px(painter, block)) for block in blocks]
    return sum(parts, Progress(0, 0))


def _peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _summary(
    job: Job,
    done: Progress,
    notes: Mapping[str, str],
    output_bytes: int,
    watch: Stopwatch,
) -> Summary:
    metadata = job.metadata()
    return Summary(
        input=job.slide.path,
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
        filled_tiles=tuple(notes.get(_FILLED, "").split()),
        model=job.model.spec.name,
        device=job.model.engine.device,
        precision=job.model.engine.precision,
        output_bytes=output_bytes,
        seconds=watch.total_s,
        stage_s=watch.seconds,
        peak_memory_bytes=_peak_memory(),
    )
