"""The paper's comparison: one budget for all, trained and scored once, resumed, shared."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import immunohistochemistry
from support.training import GAN, RECIPE, same, sources_in

from slidesr.api.paper_suite import SuiteRequest, SuiteWatch, train_paper_suite
from slidesr.benchmark.suite_tables import MODEL, SuiteScores, suite_tables
from slidesr.cli import run as run_cli
from slidesr.errors import RefusedError, StoppedError
from slidesr.imaging.metrics import psnr_db
from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.model.model import load_model
from slidesr.model.weights import ModelSpec, read_model, read_spec
from slidesr.runtime.atomic_files import locked_folder
from slidesr.train import paper_suite
from slidesr.train.loop import TrainingProgress
from slidesr.train.pace import Control
from slidesr.train.paper_suite import NETWORKS, SuiteRun, paper_runs
from slidesr.train.recipe import Recipe

WN = "wa-srgan-wn-x4"
OTHER_SEEDS = [f"{WN}-batch16-seed{seed}-fidelity" for seed in (1, 2)]
NONE = SuiteWatch(Control())


def test_all_networks_have_the_same_budget_data_and_losses() -> None:
    groups: dict[tuple[int, str], list[SuiteRun]] = defaultdict(list)
    for run in paper_runs():
        groups[run.scale, run.recipe.stage].append(run)
    assert set(groups) == {(s, stage) for s in (2, 4, 8, 16) for stage in ("fidelity", "gan")}
    for (scale, stage), runs in groups.items():
        assert {run.network for run in runs} == set(NETWORKS)
        patches = [run.recipe.patches for run in runs]
        assert max(patches) <= 1.01 * min(patches)
        first = runs[0].recipe
        for run in runs:
            assert run.recipe.data == first.data
            assert run.recipe.loss == first.loss
            assert run.recipe.critic == first.critic
        seeds = {run.recipe.seed for run in runs}
        assert seeds == ({0, 1, 2} if (scale, stage) == (4, "fidelity") else {0})


def test_runs_have_names_of_their_own_and_gan_stages_start_from_their_network() -> None:
    runs = list(paper_runs())
    names = {run.name for run in runs}
    assert len(names) == len(runs)
    assert {f"{network}-x4{stage}" for network in NETWORKS for stage in ("-fidelity", "")} < names
    for run in runs:
        assert (run.start is not None) == (run.recipe.stage == "gan")
        if run.start:
            assert run.start.recipe.generator == run.recipe.generator
            assert run.start.batch == run.batch
            assert run.recipe.start == run.start.name
            assert run.start.name in names


def test_wa_srgan_is_trained_with_one_patch_a_step_and_with_sixteen() -> None:
    batches = {(run.network, run.recipe.batch) for run in paper_runs() if not run.start}
    assert {batch for network, batch in batches if network.startswith("wa-")} == {1, 16}
    one, many = (
        next(run.recipe for run in paper_runs() if run.batch == batch) for batch in (1, 16)
    )
    assert one.optimizer.learning_rate == pytest.approx(many.optimizer.learning_rate / 4)
    assert one.optimizer.ema**16 == pytest.approx(many.optimizer.ema)


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SuiteRequest:
    """A suite of networks so small, and runs so short, that all of x4 takes seconds."""

    def tiny(network: str, *, is_gan: bool) -> Recipe:
        norm = "batch" if network in ("srgan", "a-srgan", "wa-srgan-bn") else "weight"
        generator = replace(RECIPE.generator, scale=4, norm=norm)
        base = GAN if is_gan else RECIPE
        critic = replace(GAN.critic, begins_after=0) if is_gan and GAN.critic else None
        loss = replace(base.loss, border_weight=0.0)
        return replace(
            base,
            name=f"{network}-x4" if is_gan else f"{network}-x4-fidelity",
            start=f"{network}-x4-fidelity" if is_gan else "",
            generator=generator,
            patches=64,
            batch=16,
            loss=loss,
            data=replace(base.data, context_px=0),
            critic=critic,
            validate_every=64,
        )

    monkeypatch.setattr(paper_suite, "_at_x4", tiny)
    monkeypatch.setitem(NETWORKS, "wa-srgan-wn", replace(NETWORKS["wa-srgan-wn"], batches=(16,)))
    budgets = paper_suite._BUDGETS
    monkeypatch.setitem(budgets, 4, replace(budgets[4], patch_px=16))
    sources = sources_in(tmp_path, side_px=64)
    test = tmp_path / "test" / "ihc"
    test.mkdir(parents=True)
    section = immunohistochemistry()  # type: ignore[no-untyped-call]
    for number in range(2):
        Image.fromarray(section[128:256, 128 * number : 128 * (number + 1)]).save(
            test / f"{number}.png"
        )
    return SuiteRequest(
        sources.data, sources.valid, test.parent, tmp_path / "suite", only="wa-srgan-wn-x4*"
    )


def scores_in(out: Path) -> dict[str, SuiteScores]:
    return {path.stem: SuiteScores(**json.loads(path.read_text())) for path in out.glob("*.json")}


def test_a_suite_is_trained_scored_and_tabled(request_: SuiteRequest) -> None:
    path = train_paper_suite(request_, NONE)
    found = scores_in(request_.out)
    assert set(found) == {WN, f"{WN}-fidelity", *OTHER_SEEDS}
    assert {scores.patches for scores in found.values()} == {64}
    weights = request_.out / WN / f"{WN}.safetensors"
    assert [stage.name for stage in read_spec(weights).stages] == [f"{WN}-fidelity", WN]
    model, expected = load_model(str(weights)), []
    for image in sorted((request_.test / "ihc").glob("*.png")):
        high = np.asarray(Image.open(image))
        low = bicubic_down(high, 4)
        expected.append((psnr_db(bicubic_up(low, 4), high), psnr_db(model.enlarge(low), high)))
    of = found[WN].scores["ihc"]
    means = np.mean(expected, axis=0)
    assert [of[name]["psnr_db"] for name in ("bicubic", MODEL)] == pytest.approx(means, abs=1e-6)
    table = path.read_text()
    assert "x4, ihc, fidelity stage" in table
    assert "x4, ihc, gan stage" in table
    line = next(line for line in table.splitlines() if line.startswith("| WA-SRGAN, weight norm"))
    assert line.startswith("| WA-SRGAN, weight norm | 16 | 3 | 64 | ")
    assert "±" in line


def test_what_has_scores_is_not_trained_again(request_: SuiteRequest) -> None:
    trained: list[str] = []
    watch = SuiteWatch(Control(), on_run=lambda plan: trained.append(plan.name))
    train_paper_suite(request_, watch)
    assert len(trained) == 4
    (request_.out / f"{WN}.json").unlink()  # its weights are there
    last = OTHER_SEEDS[1]
    (request_.out / f"{last}.json").unlink()
    (request_.out / last / f"{last}.safetensors").unlink()
    trained.clear()
    train_paper_suite(request_, watch)
    assert trained == [last]


def test_a_gan_stage_whose_start_is_lost_trains_it_again(request_: SuiteRequest) -> None:
    """As on another machine, where the scores are at hand and the weights are not."""
    train_paper_suite(request_, NONE)
    weights = request_.out / WN / f"{WN}.safetensors"
    spec, before = read_model(weights)
    for name in (WN, f"{WN}-fidelity"):
        for file in (request_.out / name).rglob("*"):
            if file.is_file():
                file.unlink()
    (request_.out / f"{WN}.json").unlink()
    train_paper_suite(request_, NONE)
    again, after = read_model(weights)
    assert same(after, before)
    assert untimed(again) == untimed(spec)


def untimed(spec: ModelSpec) -> ModelSpec:
    """A header without the seconds that the runs took."""
    return replace(spec, stages=tuple(replace(stage, seconds=0) for stage in spec.stages))


def test_a_stopped_suite_goes_on(request_: SuiteRequest) -> None:
    control = Control()

    def stop(now: object) -> None:
        assert isinstance(now, TrainingProgress)
        control.stop.set()

    only = replace(request_, only=f"{WN}-fidelity")
    with pytest.raises(StoppedError):
        train_paper_suite(only, SuiteWatch(control, on_progress=stop))
    assert not scores_in(only.out)
    train_paper_suite(only, NONE)
    assert set(scores_in(only.out)) == {f"{WN}-fidelity"}


def test_runs_of_another_process_are_left_to_it(
    request_: SuiteRequest, caplog: pytest.LogCaptureFixture
) -> None:
    folder = request_.out / f"{WN}-fidelity"
    folder.mkdir(parents=True)
    lock = locked_folder(folder)
    try:
        train_paper_suite(request_, NONE)
    finally:
        os.close(lock)
    assert set(scores_in(request_.out)) == set(OTHER_SEEDS)
    assert "2 runs are left to another process" in caplog.text


def test_a_pattern_that_fits_nothing_is_refused(request_: SuiteRequest) -> None:
    with pytest.raises(RefusedError, match=r"--only x5: none"):
        train_paper_suite(replace(request_, only="x5"), NONE)


def test_the_command_needs_images_and_no_recipe(
    request_: SuiteRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--data", str(request_.data), "--valid", str(request_.valid)]
    assert run_cli(["train", "--suite", "paper", *folders]) == 2
    assert run_cli(["train", "wa-srgan-x4", *folders, "--only", "a"]) == 2
    assert "--test" in capsys.readouterr().err
    folders += ["--test", str(request_.test), "-o", str(request_.out)]
    for extra in (["--patches", "9"], ["--resume"], ["--no-score"]):
        assert run_cli(["train", "--suite", "paper", *folders, *extra]) == 2
    assert run_cli(["train", "--suite", "paper", *folders, "--only", f"{WN}-fidelity"]) == 0
    assert capsys.readouterr().out.strip() == str(request_.out / "tables.md")


def test_a_spread_is_over_seeds() -> None:
    runs = [
        SuiteScores(
            "A",
            4,
            16,
            "fidelity",
            seed,
            100,
            1,
            {
                "d": {
                    "bicubic": {"psnr_db": 20.0},
                    MODEL: {"psnr_db": value},
                    "high resolution": {"auc": 0.9},
                }
            },
        )
        for seed, value in enumerate((21.0, 22.0, 23.0))
    ]
    table = suite_tables(runs, ["A"])
    assert "| bicubic |  |  |  | 20.00 |" in table
    assert "| A | 16 | 3 | 100 | 22.00 ±1.00 |" in table
