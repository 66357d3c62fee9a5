"""Cuts the patches of all slides into a folder."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from shapely import MultiPolygon

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Pixels
from slidesr.patches.dataset import PatchFolder, PatchRow
from slidesr.patches.options import SPLITS, PatchOptions
from slidesr.patches.sampling import blur, places, tissue_share
from slidesr.patches.sources import Material
from slidesr.regions.annotations import read_lesions
from slidesr.runtime.ordered_map import ordered_map
from slidesr.runtime.sandbox import check_in_sandbox
from slidesr.slide import Frame, Slide, open_slide

_log = logging.getLogger(__name__)
_PNG_LEVEL = 1  # on H&E a third of the time of level 6, and 1% larger


@dataclass(frozen=True)
class PatchProgress:
    """Progress: finished slides, and patches of the current one."""

    slides: int
    patches: int


@dataclass(frozen=True)
class PatchSummary:
    """The result: patches by split and label, and the slides that failed."""

    folder: Path
    patches: dict[str, dict[str, int]]
    failed: tuple[str, ...]
    seconds: float


def make_patches(
    material: Sequence[Material],
    folder: Path,
    options: PatchOptions,
    *,
    workers: int = 2,
    report: Callable[[PatchProgress], None] = lambda progress: None,
) -> PatchSummary:
    """Cuts the patches of each slide into the folder, skipping those that exist already.

    The patches of a slide depend on the slide, its annotation and the options alone. A slide that
    cannot be read is logged and skipped; the only one raises its error. Memory: that of
    `find_tissue`, and one patch per worker.
    """
    started = time.monotonic()
    failed = []
    with PatchFolder(folder, options) as patches:
        patches.take(material)
        try:
            for index, item in enumerate(material):
                try:
                    with closing(_cut_slide(item, patches, options, workers)) as counts:
                        for count in counts:
                            report(PatchProgress(index, count))
                except SlidesrError as error:
                    if len(material) == 1:
                        raise
                    _log.error("%s", error)
                    failed.append(item.name)
                report(PatchProgress(index + 1, 0))
        finally:
            patches.write_manifests()
        labels = {
            split: dict(Counter(row["label"] for row in patches.rows(split))) for split in SPLITS
        }
    return PatchSummary(folder, labels, tuple(failed), time.monotonic() - started)


def _cut_slide(
    item: Material, patches: PatchFolder, options: PatchOptions, workers: int
) -> Generator[int, None, None]:
    """Cuts the patches of a slide unless it is finished; yields their number so far."""
    if patches.is_finished(item.name):
        return
    rows: list[PatchRow] = []
    check_in_sandbox(item.slide)
    with open_slide(item.slide, mpp=options.level0_mpp, window=options.window) as slide:
        cutter, found = _cutter(item, slide, patches, options)
        for rank, (label, boxes) in enumerate(found.items()):
            quota = (options.per_slide + len(found) - 1 - rank) // len(found)
            with closing(_good(partial(cutter.cut, label), boxes, quota, workers)) as good:
                for row in good:
                    rows.append(row)
                    yield len(rows)
    if not rows:
        _log.warning(
            "%s: yields no patch. Try a lower --min-tissue or a higher --max-blur.", item.slide
        )
    patches.finish(item.name, sorted(rows, key=lambda row: (row.y, row.x)))


@dataclass(frozen=True)
class _Cutter:
    """Cuts the patches of one slide."""

    name: str
    frame: Frame
    coarse: Frame | None  # the level that is `pairs` times coarser
    glass: tuple[int, int, int]
    patches: PatchFolder
    options: PatchOptions

    def cut(self, label: str, box: Box) -> PatchRow | None:
        """Stores a patch unless it has too little tissue or is blurred. Thread-safe."""
        x, y = (round(at * self.frame.downsample) for at in (box.x, box.y))
        file = f"{self.name}_{x}_{y}.png"
        png = self.patches.patch(self.name, file)
        if png is None:
            pixels = self.frame.read(box)
            if tissue_share(pixels, self.glass) < self.options.min_tissue:
                return None
            if blur(pixels) > self.options.max_blur:
                return None
            if self.coarse and self.options.pairs:
                times = self.options.pairs
                sides = (box.x, box.y, box.width, box.height)
                place = Box(*(side // times for side in sides))  # cells are whole multiples
                self.patches.add_partner(self.name, file, _png(self.coarse.read(place)))
            png = _png(pixels)
            self.patches.add(self.name, file, png)
        return PatchRow(
            file=f"{self.name}/{file}",
            dataset=self.options.dataset,
            licence=self.options.licence,
            slide=self.name,
            x=x,
            y=y,
            level=self.frame.level,
            mpp=f"{self.frame.mpp.mean:.6g}" if self.frame.mpp else "",
            label=label,
            width=box.width,
            height=box.height,
            sha256=hashlib.sha256(png).hexdigest(),
        )


def _cutter(
    item: Material, slide: Slide, patches: PatchFolder, options: PatchOptions
) -> tuple[_Cutter, dict[str, list[Box]]]:
    """The cutter of a slide, and its places: label -> boxes in random order."""
    frame = slide.frame(level=options.level, mpp=options.mpp, magnification=options.magnification)
    if min(frame.size.width, frame.size.height) < options.size_px:
        raise RefusedError(
            f"{item.slide}: {frame.size} px is smaller than a patch of {options.size_px} px."
            " Ask for a finer resolution, or smaller patches."
        )
    tissue = slide.find_tissue()
    found = places(frame, tissue.mask, _lesions(item, slide, options), options, item.name)
    coarse = _coarser(item, slide, frame, options.pairs) if options.pairs else None
    return _Cutter(item.name, frame, coarse, tissue.glass, patches, options), found


def _coarser(item: Material, slide: Slide, frame: Frame, pairs: int) -> Frame:
    """The slide's own level that is `pairs` times coarser than the frame."""
    for number, level in enumerate(slide.levels):
        # Rounding only: a level 1% off would be a thousand pixels off at the far end.
        across = abs(level.size.width * pairs - frame.size.width)
        down = abs(level.size.height * pairs - frame.size.height)
        if max(across, down) <= pairs:
            return slide.frame(level=number)
    wanted = frame.downsample * pairs
    have = ", ".join(f"{level.downsample:.3g}" for level in slide.levels)
    raise RefusedError(
        f"{item.slide}: no level is {wanted:.3g} times smaller than level 0, as --pairs {pairs}"
        f" needs; its levels are {have} times smaller"
    )


def _png(pixels: Pixels) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG", compress_level=_PNG_LEVEL)
    return stored.getvalue()


def _good(
    cut: Callable[[Box], PatchRow | None], boxes: list[Box], quota: int, workers: int
) -> Generator[PatchRow, None, None]:
    """The first `quota` good patches, cut in rounds of as many as are missing, each by rows.

    So every stored patch counts, even if the run is stopped before its row is yielded.
    """
    while quota and boxes:
        turn, boxes = boxes[:quota], boxes[quota:]
        turn.sort(key=lambda box: (box.y, box.x))
        with closing(ordered_map(cut, turn, workers=workers, ahead=2 * workers)) as rows:
            for row in rows:
                if row is not None:
                    quota -= 1
                    yield row


def _lesions(item: Material, slide: Slide, options: PatchOptions) -> MultiPolygon | None:
    if item.annotation is None:
        return None
    return read_lesions(item.annotation, options.lesions, slide.size)
