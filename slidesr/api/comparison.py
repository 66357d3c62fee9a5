"""Comparison of models with each other and with interpolation, on images, slides or true pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from slidesr.benchmark.cases import cases
from slidesr.benchmark.export import refuse_cards, refuse_other_results, update_cards, write_results
from slidesr.benchmark.judges.classifier import ClassifierRecipe
from slidesr.benchmark.judges.perceptual import find_judges
from slidesr.benchmark.methods import methods_for, wanted_models
from slidesr.benchmark.pairs import ImagePair, find_pairs, match_pairs
from slidesr.benchmark.results import Results, Store
from slidesr.benchmark.suite import Comparison, ComparisonOptions, compare
from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.device import Engine
from slidesr.model.score_table import ENCODER, is_own_loss, judge_name
from slidesr.model.weights import models_folder
from slidesr.patches.make import make_patches
from slidesr.patches.options import PatchOptions
from slidesr.patches.sources import are_slides, find_material


@dataclass(frozen=True)
class ComparisonRequest:
    """What is compared, on what, and how; either `data`, or `low` and `high` as true pairs."""

    data: Path | None = None  # images, a manifest (CSV), a slide or a folder of slides
    low: Path | None = None
    high: Path | None = None
    models: tuple[str, ...] = ()  # names, files, or NAME@0.5 for a perception; shipped ones if none
    scales: tuple[int, ...] | None = None  # (4,) if None
    tolerance: float | None = None  # grey levels: also compare each model made consistent
    ensemble: bool = False  # also compare each slidesr model as the mean of eight passes
    degradation: str = "bicubic"
    jpeg: int | None = None  # quality at which the low resolution is compressed first
    per_slide: int = 100  # patches of 256 px
    level: int = 0  # of slides, the high resolution
    nuclei: bool = False  # also nuclei kept, invented and lost
    downstream: bool = False  # also nuclei and fine-tuned classifiers, for labelled images
    labelled: Path | None = None  # labelled patches that teach the classifiers
    resnext101: Path | None = None  # weights for one more judge, and of the classifiers
    seeds: int | None = None  # of the classifiers, `ClassifierRecipe.seeds` if None
    vgg19: Path | None = None  # weights for one more judge
    judges: tuple[str, ...] = ()  # further ones: ARCHITECTURE=FILE
    author_metrics: bool = False
    device: str = "auto"
    precision: str = "auto"


def compare_models(
    request: ComparisonRequest,
    output: Path,
    *,
    overwrite: bool = False,
    update_shipped: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_training: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Compares models, and writes report, tables and results.json into `output`.

    A comparison that was stopped is resumed. With `update_shipped`, in a checkout, the scores go
    into headers and cards of the shipped models that were compared, and into the tables of all.
    Raises RefusedError where the request cannot be met, or `output` holds the results of another
    comparison.
    """
    comparison = _comparison(request, output)
    _refuse_teachers(comparison)
    if update_shipped:
        refuse_cards({each.name for each in comparison.all_methods}, comparison.protocol)
    if not overwrite:
        refuse_other_results(output, comparison.protocol)
    with Store(output, comparison.identity()) as store:
        results = compare(comparison, store, on_progress, on_training)
        write_results(output, results, cases(comparison, results))
        store.discard()
    if update_shipped:
        update_cards(results, models_folder(), models_folder().parent / "README.md")
    return results


def _comparison(request: ComparisonRequest, output: Path) -> Comparison:
    for option, value in (("--labelled", request.labelled), ("--seeds", request.seeds)):
        if value and not request.downstream:
            raise RefusedError(f"{option} is of use with --downstream only")
    engine = Engine.choose(request.device, request.precision)
    pairs = _pairs(request, output)
    own = pairs[0].scale
    if own and request.scales not in (None, (own,)):
        raise RefusedError(f"{request.high}: is {own} times {request.low}. Leave out --scales.")
    options = ComparisonOptions(
        (own,) if own else request.scales or (4,),
        "own" if own else request.degradation,
        request.jpeg,
        nuclei=request.nuclei or request.downstream,
        classifier=request.downstream,
        by_author=request.author_metrics,
    )
    wanted = wanted_models(
        request.models, options.scales, request.tolerance, ensemble=request.ensemble
    )
    return Comparison(
        pairs,
        cache(partial(methods_for, wanted, engine)),
        options,
        find_pairs(request.labelled) if request.labelled else (),
        find_judges(request.judges, request.vgg19, request.resnext101),
        ClassifierRecipe(
            request.resnext101, request.seeds or ClassifierRecipe.seeds, device=engine.device
        ),
    )


def _refuse_teachers(comparison: Comparison) -> None:
    """Raises RefusedError if each judge of the headline is a loss network of a compared model."""
    judges = [judge.key for judge in comparison.judges if judge.key != ENCODER]
    if not judges or comparison.headline:
        return
    taught = next(
        method.name
        for method in comparison.all_methods
        if is_own_loss(judges[0], method.facts.get("loss networks", []))
    )
    raise RefusedError(
        f"{taught}: trained with {judge_name(judges[0])}, which would be its judge. Give another"
        " with --judge, for example torchvision/resnet50=resnet50.pth."
    )


def _pairs(request: ComparisonRequest, output: Path) -> list[ImagePair]:
    data, low, high = request.data, request.low, request.high
    if low and high and not data:
        return match_pairs(low, high)
    if low or high or not data:
        raise RefusedError("Give DATA, or both --lr and --hr.")
    return find_pairs(_patches(data, output / "patches", request) if are_slides(data) else data)


def _patches(slides: Path, folder: Path, request: ComparisonRequest) -> Path:
    """Cuts patches of tissue from slides; labelled where there are annotations beside them."""
    options = PatchOptions(level=request.level, per_slide=request.per_slide, split=(1.0, 0.0, 0.0))
    summary = make_patches(find_material([slides]), folder, options)
    if summary.failed:
        raise SlidesrError(f"{len(summary.failed)} slides failed: {', '.join(summary.failed)}")
    return folder / "train"
