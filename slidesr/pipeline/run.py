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
_BACKGROUND_COST = 0.02  # of a background pixel, against a tissue pixel; for progress alone


@dataclass(frozen=True)
class Progress:
    """How far a run is, in source pixels; `resumed_px` of the tissue come from an earlier run."""

    source_px: int
    tissue_px: int
    resumed_px: int = 0
    total_source_px: int = 0
    total_tissue_px: int = 0

    @property
    def share(self) -> float:
        """The share of the work that is done, in 0..1."""
        done, total = (
            tissue_px + _BACKGROUND_COST * (source_px - tissue_px)
            for source_px, tissue_px in (
                (self.source_px, self.tissue_px),
                (self.total_source_px, self.total_tissue_px),
            )
        )
        return done / total if total else 0.0

    def with_blocks(self, upscaler: BlockUpscaler, blocks: Iterable[Block]) -> Progress:
        """The progress once these blocks are done too."""
        parts = [(block.source.area, tissue_px(upscaler, block)) for block in blocks]
        return replace(
            self,
            source_px=self.source_px + sum(source for source, _ in parts),
            tissue_px=self.tissue_px + sum(tissue for _, tissue in parts),
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
    """An encoded block, and the unreadable source tiles that its executor has met so far."""

    encoded: EncodedBlock
    filled: frozenset[tuple[int, Box]]


Executor = Callable[
    [Job, BlockEncoder, Iterator[Block], Stopwatch], Generator[BlockResult, None, None]
]
"""Upscales and encodes the blocks of a job, and yields them in the plan's order."""


def upscale(
    job: Job,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stopwatch: Stopwatch | None = None,
    executor: Executor | None = None,
) -> Summary:
    """Runs a job and publishes its output whole; by default threads of this process execute it.

    Reading, the network and encoding overlap. At most a few blocks wait between two stages, so peak
    memory does not grow with the slide.
    """
    plan, upscaler = job.plan, job.upscaler
    watch, begun = stopwatch or Stopwatch(), job.slide.stamp
    with _writer(job) as writer:
        done = Progress(0, 0, 0, plan.region.area, job.tissue_px)
        done = done.with_blocks(upscaler, islice(plan.blocks(), writer.resumed))
        done = replace(done, resumed_px=done.tissue_px)
        on_progress(done)
        todo = islice(plan.blocks(), writer.resumed, None)
        with closing((executor or by_threads)(job, writer.encode, todo, watch)) as results:
            for result in results:
                block = result.encoded.block
                with watch("write"):
                    writer.append(result.encoded)
                    _note_filled_tiles(result, writer)
                with watch("checkpoint"):
                    writer.settle(block.index + 1)
                done = done.with_blocks(upscaler, [block])
                on_progress(done)
        job.check_unchanged(begun)
        if executor is None:
            remember(job.model.machine, job.tuner.rates)
        with watch("publish"):
            output_bytes = writer.finish()
    return _summary(job, done, writer.notes, output_bytes, watch)


def estimate(job: Job) -> CostEstimate:
    """Times and encodes one sample of the tissue, and scales it up to the job."""
    plan = replace(job.plan, block_doublings=min(2, job.plan.block_doublings))
    upscaler = BlockUpscaler(job.frame, plan, job.tissue, job.model)
    sample = max(plan.blocks(), key=lambda block: tissue_px(upscaler, block))
    raw = upscaler.read(sample)
    upscaler.upscale(raw)  # the first pass pays for setting up the kernels
    started = time.monotonic()
    block = upscaler.upscale(raw)
    encoded = encode_block(block, plan, job.options.format.compression.encode)
    seconds = time.monotonic() - started
    share = job.tissue_px / max(1, tissue_px(upscaler, sample))
    stored = sum(len(tile.data or b"") for tile in encoded.tiles)
    bytes_in_flight = 8 * 3 * job.plan.block_px**2
    return CostEstimate(seconds * share, int(stored * share), _peak_memory() + bytes_in_flight)


def _note_filled_tiles(result: BlockResult, writer: SlideWriter) -> None:
    """Adds the unreadable source tiles to those of earlier runs."""
    met = {f"{level}:{box}" for level, box in result.filled}
    if met:
        writer.notes[_FILLED] = " ".join(sorted(met.union(writer.notes.get(_FILLED, "").split())))


def _writer(job: Job) -> SlideWriter:
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
    """The `Executor` of this process: threads read ahead and encode behind.

    The network runs in the caller's thread, where glibc keeps its freed memory (see
    `slidesr.model.device`); it does so for the main thread alone.
    """
    upscaler = job.upscaler

    def read(block: Block) -> BlockInput:
        with watch("read"):
            return upscaler.read(block)

    def upscaled(inputs: Generator[BlockInput, None, None]) -> Iterator[UpscaledBlock]:
        with closing(inputs):
            while True:
                with watch("wait for reading"):
                    raw = next(inputs, None)
                if raw is None:
                    return
                with watch("network"):
                    block = upscaler.upscale(raw)
                yield block

    def encoded(block: UpscaledBlock) -> BlockResult:
        with watch("encode"):
            return BlockResult(encode(block), job.slide.filled_tiles)

    workers = job.options.num_workers
    inputs = ordered_map(read, todo, workers=workers, ahead=workers + 1)
    return ordered_map(encoded, upscaled(inputs), workers=workers, ahead=workers + 1, prompt=True)


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
        model=job.model.label,
        device=job.model.engine.device,
        precision=job.model.engine.precision,
        output_bytes=output_bytes,
        seconds=watch.total_s,
        stage_s=watch.seconds,
        peak_memory_bytes=_peak_memory(),
    )
