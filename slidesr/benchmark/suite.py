"""Runs a comparison of methods on images with a known high resolution."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesr.benchmark.downstream import Downstream
from slidesr.benchmark.measures import Enlarged, measurable, measured, nuclei
from slidesr.benchmark.methods import Method
from slidesr.benchmark.pairs import ImagePair
from slidesr.benchmark.perceptual import LEAST_PX, PerceptualMetric, ResNeXt, pooled
from slidesr.benchmark.results import ImageScores, Results, ResultStore, ScoreRow, Subject, by_data
from slidesr.benchmark.statistics import summary
from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging import metrics
from slidesr.imaging.degradation import Scanner, scanned
from slidesr.imaging.image_files import image_size, read_rgb
from slidesr.imaging.resample import bicubic_down, through_jpeg
from slidesr.model.weights import sha256_of
from slidesr.runtime.ordered_map import ordered_map

_F64 = NDArray[np.float64]
_LIBRARIES = ("slidesr", "torch", "numpy", "scipy", "pillow", "scikit-image")
_AHEAD = 4  # images queued for the metric threads

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ComparisonOptions:
    """The protocol of a comparison."""

    scales: tuple[int, ...] = (4,)
    degradation: str = "bicubic"  # "scanner", or "own" if each image has its own low resolution
    jpeg_quality: int | None = None  # JPEG quality of the low resolution, if compressed
    seed: int = 0  # of the scanner's noise
    downstream: bool = False  # also count nuclei and classify
    by_author: bool = False  # also the metrics of WA-SRGAN's author


@dataclass(frozen=True)
class Comparison:
    """The images and methods to compare; `methods(scale)` must include bicubic."""

    pairs: Sequence[ImagePair]
    methods: Callable[[int], list[Method]]
    options: ComparisonOptions = ComparisonOptions()
    labelled: Sequence[
        ImagePair
    ] = ()  # patches that teach the classifier; those of `pairs` if none
    vgg19: Path | None = None  # its weights, for one more distance
    resnext101: Path | None = None  # its weights, for the classifier; else the encoder's embeddings

    @cached_property
    def perceptual(self) -> PerceptualMetric:
        return PerceptualMetric(self.vgg19)

    @cached_property
    def features_of(self) -> Callable[[Pixels], _F64]:
        """The classifier's features of an image, f64[d]."""
        return (ResNeXt(self.resnext101) if self.resnext101 else self.perceptual).features

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the images allow; raises RefusedError if one is too small."""
        sizes = {pair.high: image_size(pair.high) for pair in self.pairs}
        path, size = min(sizes.items(), key=lambda item: min(item[1].width, item[1].height))
        if min(size.width, size.height) < LEAST_PX:
            raise RefusedError(f"{path}: {size} px: give at least {LEAST_PX} px a side")
        return measurable(list(sizes.values()), self.perceptual.metrics, self.options.by_author)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """The options and a hash of all image files, which it reads."""
        digest = hashlib.sha256()
        for path in _files([*self.pairs, *self.labelled]):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        judges = {"vgg19_sha256": self.vgg19, "resnext101_sha256": self.resnext101}
        return {
            **asdict(self.options),
            **{name: sha256_of(path) for name, path in judges.items() if path},
            "scales": list(self.options.scales),
            "metrics": list(self.metrics),
            "images": len(self.pairs),
            "images_sha256": digest.hexdigest(),
        }

    def identity(self) -> dict[str, Any]:
        """Everything that must be equal to resume an unfinished comparison."""
        return {
            "protocol": self.protocol,
            "subjects": [pair.subject.name for pair in self.pairs],
            "methods": {
                scale: {method.name: method.facts for method in self.methods(scale)}
                for scale in self.options.scales
            },
            "versions": _versions(),
        }

    def found(
        self, scale: int, methods: Sequence[Method], indices: Sequence[int]
    ) -> Iterator[tuple[int, ImageScores]]:
        """Yields image scores: networks run in this thread, metrics in two others."""
        work = partial(_found, self.metrics, self.options.downstream)
        enlarged = (self.enlarged(scale, methods, self.pairs[index]) for index in indices)
        yield from zip(indices, ordered_map(work, enlarged, workers=2, ahead=_AHEAD), strict=True)

    def enlarged(self, scale: int, methods: Sequence[Method], pair: ImagePair) -> Enlarged:
        """Upscales one image, cropped to a multiple of the scale, by all methods."""
        high = _cut(read_rgb(pair.high), scale)
        low = self._low(pair, high, scale)
        made = [method.enlarge(low) for method in methods]
        looks = np.stack([self.perceptual.embeddings(image) for image in (high, *made)])
        return Enlarged(
            pair.subject,
            low,
            high,
            made,
            self.perceptual.distances(made, high),
            looks.astype(np.float32),
            self._features([high, *made], looks).astype(np.float32),
        )

    def _features(self, images: Sequence[Pixels], embeddings: _F64) -> _F64:
        """[images, d], or [0, 0] without a classifier."""
        if not self.options.downstream:
            return np.empty((0, 0))
        if self.resnext101:
            return np.stack([self.features_of(image) for image in images])
        return np.stack(
            [pooled(each) for each in embeddings]
        )  # as `PerceptualMetric.features`, made already

    def _low(self, pair: ImagePair, high: Pixels, scale: int) -> Pixels:
        """The input of the methods: u8[h*s, w*s, 3] -> u8[h, w, 3]."""
        options = self.options
        if pair.low is not None:
            low = read_rgb(pair.low)
        elif options.degradation == "scanner":
            drawn = f"{options.seed} {scale} {pair.subject.name}".encode()
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(drawn).digest()[:8]))
            low = scanned(high, scale, Scanner(), rng)
        else:
            low = bicubic_down(high, scale)
        return through_jpeg(low, options.jpeg_quality) if options.jpeg_quality else low


def compare(comparison: Comparison, store: ResultStore, report: OnProgress) -> Results:
    """Measures all methods at all scales; images in the store are skipped.

    `report` is called with the number of images done and the total. Memory: the embeddings of one
    scale, 16 kB per method and 256 px squared.
    """
    subjects = [pair.subject for pair in comparison.pairs]
    total, done = len(subjects) * len(comparison.options.scales), 0
    methods: dict[int, dict[str, dict[str, Any]]] = {}
    scores: dict[int, dict[str, dict[str, list[float]]]] = {}
    rows: list[ScoreRow] = []
    downstream = Downstream(comparison.pairs, comparison.labelled, comparison.features_of)
    for scale in comparison.options.scales:
        compared = comparison.methods(scale)
        missing = [index for index in range(len(subjects)) if not store.has(scale, index)]
        done += len(subjects) - len(missing)
        report(done, total)
        for index, found in comparison.found(scale, compared, missing):
            store.put(scale, index, found)
            done += 1
            report(done, total)
        all_found = [store.get(scale, index) for index in range(len(subjects))]
        methods[scale] = {method.name: method.facts for method in compared}
        scores[scale] = _by_method(list(methods[scale]), comparison.metrics, all_found)
        rows += summary(scale, subjects, scores[scale])
        rows += _fid_rows(scale, subjects, list(methods[scale]), all_found)
        if comparison.options.by_author:
            rows += _running_rows(scale, subjects, scores[scale])
        if comparison.options.downstream:
            downstream.add(scale, list(methods[scale]), all_found)
    return Results(
        comparison.protocol,
        _versions(),
        methods,
        subjects,
        scores,
        rows,
        downstream.nuclei,
        downstream.classifier,
    )


def mean_scores(
    comparison: Comparison, report: OnProgress
) -> dict[str, dict[str, dict[str, float]]]:
    """Data set -> method -> metric -> mean at a comparison's only scale, for a model card."""
    (scale,) = comparison.options.scales
    methods, subjects = comparison.methods(scale), [pair.subject for pair in comparison.pairs]
    found = []
    for index, each in comparison.found(scale, methods, range(len(subjects))):
        found.append(each)
        report(index + 1, len(subjects))
    names = [method.name for method in methods]
    rows = summary(scale, subjects, _by_method(names, comparison.metrics, found))
    return means(rows + _fid_rows(scale, subjects, names, found))


def means(rows: Sequence[ScoreRow]) -> dict[str, dict[str, dict[str, float]]]:
    """Data set -> method -> metric -> mean over all its images, of the rows of one scale."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if (row.part, row.unit) == ("all", "image"):
            table.setdefault(row.data, {}).setdefault(row.method, {})[row.metric] = row.mean
    return table


def _found(names: Sequence[str], downstream: bool, enlarged: Enlarged) -> ImageScores:
    counts = nuclei(enlarged) if downstream else np.empty((0, 3), np.int64)
    return ImageScores(measured(names, enlarged), enlarged.embeddings, counts, enlarged.features)


def _by_method(
    methods: Sequence[str], names: Sequence[str], found: Sequence[ImageScores]
) -> dict[str, dict[str, list[float]]]:
    """Method -> metric -> one value per image."""
    table = np.stack([each.scores for each in found])  # [images, methods, metrics]
    return {
        method: {name: table[:, i, j].tolist() for j, name in enumerate(names)}
        for i, method in enumerate(methods)
    }


def _fid_rows(
    scale: int, subjects: Sequence[Subject], methods: Sequence[str], found: Sequence[ImageScores]
) -> list[ScoreRow]:
    """The Frechet distance between the output and original tiles of each data set."""
    rows = []
    for data, of in by_data(subjects).items():
        looks = [found[index].embeddings for index in of]
        true, *made = (np.concatenate(part).astype(np.float64) for part in zip(*looks, strict=True))
        for method, tiles in zip(methods, made, strict=True):
            fid = metrics.frechet(tiles, true)
            rows.append(ScoreRow(scale, method, data, "all", "image", "fid", len(looks), fid))
    return rows


def _running_rows(
    scale: int, subjects: Sequence[Subject], scores: dict[str, dict[str, list[float]]]
) -> list[ScoreRow]:
    """The author's running mean PSNR over the images in order."""
    rows = []
    for data, of in by_data(subjects).items():
        for method, by_metric in scores.items():
            psnr_db = metrics.running_psnr_db_author([by_metric["mse"][index] for index in of])
            metric = "running_psnr_db_author"
            rows.append(ScoreRow(scale, method, data, "all", "image", metric, len(of), psnr_db))
    return rows


def _files(pairs: Sequence[ImagePair]) -> list[Path]:
    return [path for pair in pairs for path in (pair.high, pair.low) if path]


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _cut(image: Pixels, scale: int) -> Pixels:
    height, width = (side // scale * scale for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])
