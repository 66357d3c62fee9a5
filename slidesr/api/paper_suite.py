"""The paper's comparison, from training to tables: resumable, and shared by several processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from threading import Event

from slidesr.api.training import Plan, TrainingOptions, train_model
from slidesr.benchmark.judges.classifier import ClassifierRecipe, Classifiers
from slidesr.benchmark.judges.labels import plan_lessons
from slidesr.benchmark.judges.perceptual import find_judges
from slidesr.benchmark.methods import BICUBIC, classical, of_model
from slidesr.benchmark.pairs import find_pairs
from slidesr.benchmark.results import Results, Store
from slidesr.benchmark.suite import Comparison, ComparisonOptions, compare
from slidesr.benchmark.suite_tables import MODEL, SuiteScores, scores_of, suite_tables
from slidesr.errors import BusyError, RefusedError, StoppedError
from slidesr.model.model import load_model
from slidesr.model.weights import read_spec
from slidesr.runtime.atomic_files import holding, whole_file
from slidesr.train.encoder.training import EncoderProgress
from slidesr.train.loop import Sources, TrainingProgress
from slidesr.train.pace import Control
from slidesr.train.paper_suite import NETWORKS, SuiteRun, paper_runs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteRequest:
    """Images to train on, to validate with and to score with, and the folder of all runs."""

    data: Path
    valid: Path
    test: Path
    out: Path
    labelled: Path | None = None  # labelled patches that teach a classifier to judge the outputs
    only: str = "*"  # a pattern of the names of runs, such as "*-x4*"


@dataclass(frozen=True)
class SuiteWatch:
    """Who is told of a suite's progress, and what stops it."""

    control: Control
    on_run: Callable[[Plan], None] = lambda plan: None
    on_progress: Callable[[TrainingProgress | EncoderProgress], None] = lambda now: None


def train_paper_suite(request: SuiteRequest, watch: SuiteWatch) -> Path:
    """Trains and scores the runs that have no scores in `out` yet; returns the path of the tables.

    OUT/RUN.json holds the scores of a run, and OUT/RUN its checkpoint and weights, which are needed
    only until it is scored, those of a fidelity stage until the GAN stage after it is. A run that
    another process is at is left to it. Raises RefusedError if no run has such a name.
    """
    runs = [run for run in paper_runs() if fnmatch(run.name, request.only)]
    if not runs:
        raise RefusedError(f"--only {request.only}: none of the suite's runs has such a name")
    request.out.mkdir(parents=True, exist_ok=True)
    judge = _Judge(request, watch.control.stop)
    while todo := [run for run in runs if not _scores_file(request.out, run).exists()]:
        done = [_done(run, request, judge, watch) for run in todo]
        if not any(done):
            _log.warning("%d runs are left to another process in %s", len(todo), request.out)
            break
    return _write_tables(request.out)


def _done(run: SuiteRun, request: SuiteRequest, judge: _Judge, watch: SuiteWatch) -> bool:
    """Trains and scores one run; False if another process has it, or the run that it starts from.

    The other may also have finished it since the list was made.
    """
    try:
        with _claimed(request.out / run.name):
            if not _scores_file(request.out, run).exists():
                weights = _trained(run, request, watch)
                scores = judge.scores(run, weights)
                with whole_file(_scores_file(request.out, run)) as file:
                    file.write(json.dumps(scores.as_dict(), indent=1).encode())
    except BusyError:
        return False
    return True


def _trained(run: SuiteRun, request: SuiteRequest, watch: SuiteWatch) -> Path:
    """The weights of a run, trained if they are not there, like those that it starts from."""
    folder = request.out / run.name
    weights = folder / f"{run.name}.safetensors"
    if weights.exists():
        return weights
    recipe = run.recipe
    if run.start:
        with _claimed(request.out / run.start.name):
            recipe = replace(recipe, start=str(_trained(run.start, request, watch)))
    watch.on_run(recipe)
    train_model(
        recipe,
        Sources(request.data, request.valid, folder),
        TrainingOptions(resume=True, score=False),
        control=Control(stop=watch.control.stop),
        on_progress=watch.on_progress,
    )
    return weights


class _Judge:
    """Scores weights on the test images; the classifiers are trained once, when first needed."""

    def __init__(self, request: SuiteRequest, stop: Event) -> None:
        self._stop = stop
        self._pairs, self._out = find_pairs(request.test), request.out
        self._judges = find_judges()
        self._classifiers: Classifiers | None = None
        if request.labelled:
            lessons = plan_lessons(self._pairs, find_pairs(request.labelled))
            self._classifiers = Classifiers(lessons, ClassifierRecipe())

    def scores(self, run: SuiteRun, weights: Path) -> SuiteScores:
        bicubic = next(each for each in classical(run.scale) if each.name == BICUBIC)
        model = replace(of_model(load_model(str(weights))), name=MODEL)
        comparison = Comparison(
            self._pairs,
            lambda scale: [bicubic, model],
            ComparisonOptions((run.scale,), nuclei=True, classifier=self._classifiers is not None),
            judges=self._judges,
            taught=self._classifiers,
        )
        with Store(self._out / run.name / "scores", comparison.identity()) as store:
            results = compare(comparison, store, self._check, self._check)
            store.discard()
        return _suite_scores(run, weights, results)

    def _check(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped while scoring")


def _suite_scores(run: SuiteRun, weights: Path, results: Results) -> SuiteScores:
    last = read_spec(weights).stages[-1]
    return SuiteScores(
        network=NETWORKS[run.network].title,
        scale=run.scale,
        batch=run.batch,
        stage=run.recipe.stage,
        seed=run.recipe.seed,
        patches=last.patches,
        seconds=last.seconds,
        scores=scores_of(results),
    )


def _write_tables(out: Path) -> Path:
    found = [SuiteScores(**json.loads(path.read_text())) for path in sorted(out.glob("*.json"))]
    path = out / "tables.md"
    with whole_file(path) as file:
        file.write(suite_tables(found, [network.title for network in NETWORKS.values()]).encode())
    return path


def _scores_file(out: Path, run: SuiteRun) -> Path:
    return out / f"{run.name}.json"


def _claimed(folder: Path) -> AbstractContextManager[None]:
    """Makes the folder, to hold its lock; raises BusyError where another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    return holding(folder)
