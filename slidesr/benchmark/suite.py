"""Compares upscaling methods on images with known high resolution."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesr.benchmark.judges.classifier import ClassifierRecipe, Classifiers
from slidesr.benchmark.judges.downstream import classifier_rows, nuclei_rows
from slidesr.benchmark.judges.labels import plan_lessons
from slidesr.benchmark.judges.nuclei import COUNTS, SIZES
from slidesr.benchmark.judges.perceptual import MIN_SIDE_PX, Judge, find_judges
from slidesr.benchmark.measures import Enlarged, agreement_db, measurable, measured, nuclei
from slidesr.benchmark.methods import Method
from slidesr.benchmark.model_pairs import Relation, pair_rows, relations
from slidesr.benchmark.pairs import ImagePair
from slidesr.benchmark.results import (
    Found,
    PairRow,
    Results,
    ScoreRow,
    Store,
    Subject,
    TaskRow,
    by_data,
)
from slidesr.benchmark.statistics import summary
from slidesr.errors import RefusedError
from slidesr.geometry import Pixels, Size
from slidesr.imaging import metrics
from slidesr.imaging.degradation import Scanner, scanned
from slidesr.imaging.resample import bicubic_down, bilinear_up, through_jpeg
from slidesr.model.score_table import headline_judge, is_own_loss_of
from slidesr.runtime.ordered_map import ordered_map
from slidesr.slide.image_files import image_size, read_rgb

_F32 = NDArray[np.float32]
_LIBRARIES = ("slidesr", "torch", "numpy", "scipy", "pillow", "scikit-image")
_AHEAD = 4  # upscaled images queued for metrics
# The ranges of the slides recipes; a stored pyramid level was measured to have 0.4-0.5 px of blur.
_SCANNER = Scanner(blur_px=(0.1, 0.6), shot_noise=(0.0, 0.004), read_noise=(0.0, 0.5))
_SCANNER_FACTS = {name: list(drawn) for name, drawn in asdict(_SCANNER).items()}

OnImages = Callable[[int, int], None]


@dataclass(frozen=True)
class ComparisonOptions:
    """Options that determine the scores, besides images, methods and machine."""

    scales: tuple[int, ...] = (4,)
    degradation: str = "bicubic"  # or "scanner", or "own" for given low-resolution images
    jpeg_quality: int | None = None  # compress the low resolution, as in slides
    seed: int = 0  # of the simulated scanner's noise
    nuclei: bool = False  # also count nuclei
    classifier: bool = False  # also ask fine-tuned classifiers
    by_author: bool = False  # also metrics as computed by the author of WA-SRGAN


@dataclass(frozen=True)
class Comparison:
    """Images and methods to compare; `methods` returns those of a scale, including bicubic."""

    pairs: Sequence[ImagePair]
    methods: Callable[[int], list[Method]]
    options: ComparisonOptions = ComparisonOptions()
    labelled: Sequence[ImagePair] = ()  # to train the classifier; default `pairs`
    judges: Sequence[Judge] = field(default_factory=find_judges)
    recipe: ClassifierRecipe = field(default_factory=ClassifierRecipe)
    taught: Classifiers | None = None  # those of another comparison of the same images

    @property
    def all_methods(self) -> list[Method]:
        """The methods of every scale."""
        return [each for scale in self.options.scales for each in self.methods(scale)]

    @cached_property
    def headline(self) -> str:
        """The judge of the first tables by `headline_judge`, free of all compared methods' losses.

        Empty if there is none.
        """
        used = [name for each in self.all_methods for name in each.facts.get("loss networks", [])]
        return headline_judge([judge.key for judge in self.judges], used)

    @cached_property
    def classifiers(self) -> Classifiers | None:
        """Raises RefusedError if no image can be judged; none is trained yet."""
        if not self.options.classifier:
            return None
        return self.taught or Classifiers(plan_lessons(self.pairs, self.labelled), self.recipe)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Metrics applicable to the images; raises RefusedError if one is smaller than a tile."""
        sizes = {pair.high: image_size(pair.high) for pair in self.pairs}
        path, size = min(sizes.items(), key=lambda item: min(item[1].width, item[1].height))
        if min(size.width, size.height) < MIN_SIDE_PX:
            raise RefusedError(f"{path}: {size} px; at least {MIN_SIDE_PX} px per side are needed")
        judged = [name for judge in self.judges for name in judge.image_metrics]
        compared = [_cut_size(each, max(self.options.scales)) for each in sizes.values()]
        return measurable(compared, judged, self.options.by_author)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """Options and hashes of all input files, which are read for it; stored with the results."""
        digest = hashlib.sha256()
        for path in _files([*self.pairs, *self.labelled]):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return {
            **asdict(self.options),
            **(_SCANNER_FACTS if self.options.degradation == "scanner" else {}),
            **(self.classifiers.facts if self.classifiers else {}),
            "judges": {judge.key: judge.sha256 for judge in self.judges},
            "headline_judge": self.headline,
            "scales": list(self.options.scales),
            "metrics": list(self.metrics),
            "images": len(self.pairs),
            "images_sha256": digest.hexdigest(),
        }

    def identity(self) -> dict[str, Any]:
        """Everything that must match to resume an unfinished comparison."""
        return {
            "protocol": self.protocol,
            "subjects": [pair.subject.name for pair in self.pairs],
            "lessons": self.classifiers.record if self.classifiers else [],
            "methods": {
                scale: {method.name: method.facts for method in self.methods(scale)}
                for scale in self.options.scales
            },
            "versions": _versions(),
        }

    def found(
        self, scale: int, methods: Sequence[Method], indices: Sequence[int]
    ) -> Iterator[tuple[int, Found]]:
        """Measures these images: networks in this thread, metrics in two others."""
        work = partial(_found, self.metrics, self.options.nuclei, relations(methods))
        enlarged = (self._judged(scale, methods, index) for index in indices)
        yield from zip(indices, ordered_map(work, enlarged, workers=2, ahead=_AHEAD), strict=True)

    def _judged(self, scale: int, methods: Sequence[Method], index: int) -> tuple[Enlarged, _F32]:
        """Upscales one image and gives the classifiers' probabilities: f32[seeds, 2 + methods].

        The low resolution is shown to them enlarged by bilinear interpolation, with which images
        are usually brought to a network's size; nearest and bicubic are among the methods.
        """
        enlarged = self.enlarged(scale, methods, self.pairs[index])
        if self.classifiers is None:
            return enlarged, np.empty((0, 0), np.float32)
        shown = [enlarged.high, bilinear_up(enlarged.low, scale), *enlarged.outputs]
        return enlarged, self.classifiers.probabilities(index, shown)

    def enlarged(self, scale: int, methods: Sequence[Method], pair: ImagePair) -> Enlarged:
        """Upscales one image, cropped to a multiple of the scale, with all methods."""
        high = _cut(read_rgb(pair.high), scale)
        low = self._low(pair, high, scale)
        outputs = [method.enlarge(low) for method in methods]
        verdicts = {judge.key: judge.verdict(high, outputs) for judge in self.judges}
        return Enlarged(
            pair.subject,
            low,
            high,
            outputs,
            {name: each for verdict in verdicts.values() for name, each in verdict.scores.items()},
            {key: verdict.embeddings for key, verdict in verdicts.items()},
        )

    def _low(self, pair: ImagePair, high: Pixels, scale: int) -> Pixels:
        """Reads or computes the methods' input: u8[h*s, w*s, 3] -> u8[h, w, 3]."""
        options = self.options
        if pair.low is not None:
            low = read_rgb(pair.low)
        elif options.degradation == "scanner":
            drawn = f"{options.seed} {scale} {pair.subject.name}".encode()
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(drawn).digest()[:8]))
            low = scanned(high, scale, _SCANNER, rng)
        else:
            low = bicubic_down(high, scale)
        return through_jpeg(low, options.jpeg_quality) if options.jpeg_quality else low


def compare(
    comparison: Comparison,
    store: Store,
    report: OnImages,
    report_training: OnImages = lambda done, total: None,
) -> Results:
    """Measures all methods at all scales; images that are already in the store are skipped.

    `report` receives the number of finished and of all images, `report_training` that of
    classifiers, which are trained first if an image needs them. Memory: the embeddings of one
    scale, with two judges 38 kB per method and 256 x 256 px.
    """
    subjects = [pair.subject for pair in comparison.pairs]
    total, done = len(subjects) * len(comparison.options.scales), 0
    methods: dict[int, dict[str, dict[str, Any]]] = {}
    scores: dict[int, dict[str, dict[str, list[float]]]] = {}
    rows: list[ScoreRow] = []
    pairs: list[PairRow] = []
    nuclei: list[TaskRow] = []
    classifier: list[TaskRow] = []
    for scale in comparison.options.scales:
        compared = comparison.methods(scale)
        missing = [index for index in range(len(subjects)) if not store.has(scale, index)]
        done += len(subjects) - len(missing)
        if comparison.classifiers:
            comparison.classifiers.train(missing, report_training)
        report(done, total)
        for index, found in comparison.found(scale, compared, missing):
            store.put(scale, index, found)
            done += 1
            report(done, total)
        all_found = [store.get(scale, index) for index in range(len(subjects))]
        methods[scale] = {method.name: method.facts for method in compared}
        scores[scale] = _by_method(list(methods[scale]), comparison.metrics, all_found)
        of_scale = summary(scale, subjects, scores[scale])
        of_scale += _set_rows(scale, subjects, compared, comparison.judges, all_found)
        rows += _marked(of_scale, compared)
        agreement = np.stack([found.agreement_db for found in all_found], axis=1)
        for related, agreed_db in zip(relations(compared), agreement, strict=True):
            pairs += pair_rows(scale, subjects, related, scores[scale], agreed_db)
        if comparison.options.by_author:
            rows += _running_rows(scale, subjects, scores[scale])
        if comparison.options.nuclei:
            nuclei += _nuclei_rows(comparison, scale, list(methods[scale]), all_found)
        if comparison.classifiers:
            tested = comparison.classifiers.plan.tested
            answers = {index: all_found[index].probabilities for index in tested}
            classifier += classifier_rows(scale, list(methods[scale]), tested, answers)
    return Results(
        comparison.protocol,
        _versions(),
        methods,
        subjects,
        scores,
        rows,
        nuclei,
        classifier,
        pairs,
    )


def mean_scores(comparison: Comparison, report: OnImages) -> dict[str, dict[str, dict[str, float]]]:
    """Computes data set -> method -> metric -> mean, for a model card; needs a single scale."""
    (scale,) = comparison.options.scales
    methods, subjects = comparison.methods(scale), [pair.subject for pair in comparison.pairs]
    found = []
    for index, each in comparison.found(scale, methods, range(len(subjects))):
        found.append(each)
        report(index + 1, len(subjects))
    names = [method.name for method in methods]
    rows = summary(scale, subjects, _by_method(names, comparison.metrics, found))
    return means(rows + _set_rows(scale, subjects, methods, comparison.judges, found))


def means(rows: Sequence[ScoreRow]) -> dict[str, dict[str, dict[str, float]]]:
    """Extracts data set -> method -> metric -> mean over all images from rows of one scale."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if (row.part, row.unit) == ("all", "image"):
            table.setdefault(row.data, {}).setdefault(row.method, {})[row.metric] = row.mean
    return table


def _found(
    names: Sequence[str],
    with_nuclei: bool,
    related: Sequence[Relation],
    judged: tuple[Enlarged, _F32],
) -> Found:
    enlarged, probabilities = judged
    counts = nuclei(enlarged) if with_nuclei else np.empty((0, len(SIZES), len(COUNTS)))
    agreement = agreement_db(enlarged.outputs, [each.indices for each in related])
    scores = measured(names, enlarged)
    return Found(scores, enlarged.embeddings, counts, probabilities, agreement)


def _nuclei_rows(
    comparison: Comparison, scale: int, methods: Sequence[str], found: Sequence[Found]
) -> list[TaskRow]:
    pairs = comparison.pairs
    areas_px = [_cut_size(image_size(pair.high), scale).area for pair in pairs]
    counts = [each.nuclei for each in found]
    return nuclei_rows(scale, methods, [pair.subject for pair in pairs], areas_px, counts)


def _by_method(
    methods: Sequence[str], names: Sequence[str], found: Sequence[Found]
) -> dict[str, dict[str, list[float]]]:
    """Rearranges to method -> metric -> score per image."""
    table = np.stack([each.scores for each in found])  # [images, methods, metrics]
    return {
        method: {name: table[:, i, j].tolist() for j, name in enumerate(names)}
        for i, method in enumerate(methods)
    }


def _set_rows(
    scale: int,
    subjects: Sequence[Subject],
    methods: Sequence[Method],
    judges: Sequence[Judge],
    found: Sequence[Found],
) -> list[ScoreRow]:
    """Distances per data set between the tiles of the outputs and of the originals."""
    rows = []
    for (data, indices), judge in product(by_data(subjects).items(), judges):
        embeddings = [found[index].embeddings[judge.key] for index in indices]
        true, *outputs = (
            np.concatenate(part).astype(np.float64) for part in zip(*embeddings, strict=True)
        )
        for method, tiles in zip(methods, outputs, strict=True):
            rows += [
                ScoreRow(scale, method.name, data, "all", "image", metric, len(indices), value)
                for metric, value in judge.of_sets(tiles, true).items()
            ]
    return rows


def _marked(rows: Sequence[ScoreRow], methods: Sequence[Method]) -> list[ScoreRow]:
    """Marks what was judged by the network of a method's own loss."""
    used = {method.name: method.facts.get("loss networks", []) for method in methods}
    return [replace(row, own_loss=is_own_loss_of(row.metric, used[row.method])) for row in rows]


def _running_rows(
    scale: int, subjects: Sequence[Subject], scores: dict[str, dict[str, list[float]]]
) -> list[ScoreRow]:
    """PSNR averaged like the author's code does, which depends on the order of the images."""
    rows = []
    for data, indices in by_data(subjects).items():
        for method, by_metric in scores.items():
            psnr_db = metrics.running_psnr_db_author([by_metric["mse"][index] for index in indices])
            metric = "running_psnr_db_author"
            rows.append(
                ScoreRow(scale, method, data, "all", "image", metric, len(indices), psnr_db)
            )
    return rows


def _files(pairs: Sequence[ImagePair]) -> list[Path]:
    return [path for pair in pairs for path in (pair.high, pair.low) if path]


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _cut(image: Pixels, scale: int) -> Pixels:
    size = _cut_size(Size(image.shape[1], image.shape[0]), scale)
    return np.ascontiguousarray(image[: size.height, : size.width])


def _cut_size(size: Size, scale: int) -> Size:
    return Size(size.width // scale * scale, size.height // scale * scale)
