"""A run that was stopped, however it was stopped, goes on to the bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import GAN, RECIPE, run_alone, same, sources_in

from slidesr.errors import RefusedError
from slidesr.nets.generator import GeneratorSpec
from slidesr.train.loop import Sources, TrainingProgress
from slidesr.train.recipe import Recipe

SHORT = replace(RECIPE, patches=30, validate_every=10)
SHORT_GAN = replace(GAN, patches=30, validate_every=10)
RUNS = {
    "fidelity": SHORT,
    "muon": replace(SHORT, optimizer=replace(RECIPE.optimizer, kind="muon")),
    "gan": SHORT_GAN,
    "srgan": replace(
        SHORT_GAN,
        generator=GeneratorSpec(2, "batch", 0, block="plain", channels=8, blocks=1),
        loss=replace(GAN.loss, border_weight=0.0),
    ),
}
OFTEN = replace(GAN, patches=80, validate_every=4)
_PATIENCE_S = 300


class Stopped(Exception):
    """What a power cut is to a run."""


def stop_after(count: int) -> Callable[[TrainingProgress], None]:
    reports: list[TrainingProgress] = []

    def report(now: TrainingProgress) -> None:
        reports.append(now)
        if len(reports) == count:
            raise Stopped

    return report


def state_in(out: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return saved


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def same_state(ours: Path, theirs: Path) -> bool:
    """Networks, optimisers, average and patches; the seconds differ."""
    return equal(timeless(state_in(ours)), timeless(state_in(theirs)))


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    header = json.loads(state["header"])
    header["stages"][-1]["seconds"] = 0
    return state | {"reached": state["reached"] | {"seconds": 0}, "header": header}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return sources_in(tmp_path_factory.mktemp("training"))


Whole = tuple[Recipe, list[TrainingProgress], Path]


@pytest.fixture(scope="module", params=RUNS)
def whole(
    request: pytest.FixtureRequest, sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    """A run that nothing stopped: its recipe, its reports, its folder."""
    reports: list[TrainingProgress] = []
    out = tmp_path_factory.mktemp("whole")
    recipe = RUNS[request.param]
    run_alone(recipe, replace(sources, out=out), reports.append)
    return recipe, reports, out


@pytest.mark.parametrize("stops", [(1,), (1, 1)], ids=str)
def test_a_stopped_run_goes_on_to_the_same_bits(
    stops: tuple[int, ...], whole: Whole, sources: Sources, tmp_path: Path
) -> None:
    recipe, whole_reports, out = whole
    own = replace(sources, out=tmp_path)
    for count in stops:
        with pytest.raises(Stopped):
            run_alone(recipe, own, stop_after(count))
    reports: list[TrainingProgress] = []
    run_alone(recipe, own, reports.append)
    assert reports[0].patches == 10 * (sum(stops) + 1)
    assert (reports[-1].losses, reports[-1].scores) == (
        whole_reports[-1].losses,
        whole_reports[-1].scores,
    )
    assert same_state(tmp_path, out)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint.pt", "samples", "tensorboard"}


def test_a_finished_run_is_not_run_again(whole: Whole, sources: Sources) -> None:
    recipe, _, out = whole
    before = (out / "checkpoint.pt").read_bytes()
    reports: list[TrainingProgress] = []
    first, second = (
        run_alone(recipe, replace(sources, out=out), reports.append).generator for _ in range(2)
    )
    assert not reports
    assert same(first, second)
    assert (out / "checkpoint.pt").read_bytes() == before


def test_a_killed_run_goes_on_to_the_same_bits(sources: Sources, tmp_path: Path) -> None:
    """SIGKILL, three times, at random moments of training, validating and saving."""
    uncut, cut = (replace(sources, out=tmp_path / name) for name in ("uncut", "cut"))
    alone = started(uncut)
    rng = np.random.default_rng(0)
    for _ in range(3):
        run = started(cut)
        wait_for_new_file(cut.out / "checkpoint.pt", run)
        time.sleep(rng.uniform(0, 0.1))
        run.kill()
        run.join()
        assert run.exitcode == -signal.SIGKILL
    last = started(cut)
    for process in (alone, last):
        process.join(_PATIENCE_S)
        assert process.exitcode == 0
    assert state_in(uncut.out)["reached"]["patches"] == 80
    assert same_state(cut.out, uncut.out)


def started(sources: Sources) -> BaseProcess:
    """A run in a process of its own, forked where torch is already loaded."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["slidesr.train.loop"])
    process = context.Process(target=train_often, args=(sources,), daemon=True)
    process.start()
    return process


def train_often(sources: Sources) -> None:
    torch.set_num_threads(1)
    run_alone(OFTEN, sources)


def wait_for_new_file(path: Path, run: BaseProcess) -> None:
    """Until the run has put another file in its place."""
    before = path.stat().st_ino if path.exists() else None
    deadline = time.monotonic() + _PATIENCE_S
    while not path.exists() or path.stat().st_ino == before:
        assert run.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("where", "name", "calls"), [(os, "fsync", 3), (Path, "replace", 2)], ids=["written", "synced"]
)
def test_a_run_that_dies_while_it_saves_loses_only_that(
    where: Any, name: str, calls: int, whole: Whole, sources: Sources, tmp_path: Path
) -> None:
    """In its second saving: before the new file is on the disk, and before it takes its place."""
    recipe, _, out = whole
    own = replace(sources, out=tmp_path)
    real, left = getattr(where, name), iter(range(calls - 1))

    def die_in_the_end(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise Stopped
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, die_in_the_end)
        with pytest.raises(Stopped):
            run_alone(recipe, own)
    assert (tmp_path / "checkpoint.part").exists()
    assert state_in(tmp_path)["reached"]["patches"] == recipe.validate_every
    run_alone(recipe, own)
    assert same_state(tmp_path, out)


def test_a_half_written_state_is_never_loaded(
    whole: Whole, sources: Sources, tmp_path: Path
) -> None:
    """Neither beside a whole one nor alone."""
    recipe, _, out = whole
    own = replace(sources, out=tmp_path)
    half = (out / "checkpoint.pt").read_bytes()[:5000]
    (tmp_path / "checkpoint.part").write_bytes(half)
    with pytest.raises(Stopped):
        run_alone(recipe, own, stop_after(1))
    (tmp_path / "checkpoint.part").write_bytes(half)
    run_alone(recipe, own)
    assert same_state(tmp_path, out)


def test_a_run_of_another_recipe_is_not_gone_on_with(whole: Whole, sources: Sources) -> None:
    recipe, _, out = whole
    before = (out / "checkpoint.pt").read_bytes()
    other = replace(recipe, loss=replace(recipe.loss, pixel="mse"))
    with pytest.raises(RefusedError, match="a different recipe"):
        run_alone(other, replace(sources, out=out))
    assert (out / "checkpoint.pt").read_bytes() == before


class Explosive:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_checkpoint_with_code_is_refused_and_not_executed(
    sources: Sources, tmp_path: Path
) -> None:
    trace = tmp_path / "executed"
    torch.save({"recipe": Explosive(trace)}, tmp_path / "checkpoint.pt")
    with pytest.raises(RefusedError, match=r"checkpoint\.pt") as caught:
        run_alone(RECIPE, replace(sources, out=tmp_path))
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["empty", "text", "half", "other keys", "a list", "a folder"])
def test_a_broken_checkpoint_is_refused(
    damage: str, whole: Whole, sources: Sources, tmp_path: Path
) -> None:
    recipe, _, out = whole
    path = tmp_path / "checkpoint.pt"
    good = (out / "checkpoint.pt").read_bytes()
    if damage == "a folder":
        path.mkdir()
    elif damage in ("other keys", "a list"):
        torch.save({"weights": 1} if damage == "other keys" else [1], path)
    else:
        path.write_bytes({"empty": b"", "text": b"none" * 99, "half": good[:5000]}[damage])
    with pytest.raises(RefusedError, match=r"checkpoint\.pt") as caught:
        run_alone(recipe, replace(sources, out=tmp_path))
    assert "\n" not in str(caught.value)
