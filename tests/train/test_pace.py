"""When a run slows down, saves and ends, and what it leaves behind however it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import RECIPE, same, sources_in, write_toml

from slidesr.api.training import (
    PlanChanges,
    TrainingOptions,
    export_checkpoint,
    train_model,
    training_plan,
)
from slidesr.cli import run
from slidesr.errors import RefusedError, StoppedError
from slidesr.model.weights import read_model, read_spec, save_model
from slidesr.train.checkpoint import reached_in
from slidesr.train.distributed import World
from slidesr.train.loop import Sources, train
from slidesr.train.pace import Control
from slidesr.train.recipe import Recipe

COOLED = replace(
    RECIPE, patches=40, validate_every=10, optimizer=replace(RECIPE.optimizer, cooldown=0.25)
)
ENDLESS = replace(COOLED, patches=10**9)
RESUMED = TrainingOptions(resume=True, score=False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return sources_in(tmp_path_factory.mktemp("training"), side_px=164)


@pytest.fixture
def own(sources: Sources, tmp_path: Path) -> Sources:
    return replace(sources, out=tmp_path / "run")


def trained(
    recipe: Recipe,
    sources: Sources,
    control: Control | None = None,
    report: Callable[[Any], None] = lambda now: None,
) -> Path:
    """The weights of a run that goes on with what is there."""
    made = train_model(recipe, sources, RESUMED, control=control, on_progress=report)
    assert made is not None
    return made


def at(patches: int, act: Callable[[], None]) -> Callable[[Any], None]:
    def report(now: Any) -> None:
        if now.patches == patches:
            act()

    return report


def generator_in(path: Path) -> torch.nn.Module:
    return read_model(path)[1]


@pytest.fixture(scope="module")
def straight(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 patches, the last 10 of them at a falling rate, without a stop."""
    return trained(COOLED, replace(sources, out=tmp_path_factory.mktemp("straight")))


# Longer and shorter


def test_a_run_that_is_extended_is_as_one_that_was_that_long(own: Sources, straight: Path) -> None:
    """It goes on from before the cooldown, as if that had not been."""
    short = trained(replace(COOLED, patches=20), own)
    assert (own.out / "before-cooldown.pt").exists()
    assert not same(generator_in(short), generator_in(straight))
    patches: list[int] = []
    longer = trained(COOLED, own, report=lambda now: patches.append(now.patches))
    assert patches == [20, 30, 40]
    assert same(generator_in(longer), generator_in(straight))
    assert [stage.patches for stage in read_spec(longer).stages] == [40]


def test_a_run_whose_rate_falls_throughout_is_not_extended(own: Sources) -> None:
    recipe = replace(RECIPE, patches=8)
    before = trained(recipe, own).read_bytes()
    with pytest.raises(RefusedError, match="fall towards 8 patches") as caught:
        trained(replace(recipe, patches=12), own)
    assert "\n" not in str(caught.value)
    assert (own.out / "tiny.safetensors").read_bytes() == before


def test_a_run_is_not_shortened_to_less_than_it_has_seen(own: Sources) -> None:
    control = Control()
    with pytest.raises(StoppedError):
        trained(ENDLESS, own, control, at(20, control.stop.set))
    with pytest.raises(RefusedError, match="seen 22 patches") as caught:  # the step under way too
        trained(replace(COOLED, patches=24), own)
    assert "--finish-now" in str(caught.value)
    assert read_spec(trained(replace(COOLED, patches=28), own)).patches == 28


@pytest.mark.parametrize("asked", ["while it runs", "afterwards"])
def test_a_run_that_is_finished_early_is_as_one_planned_so(
    asked: str, own: Sources, straight: Path
) -> None:
    """The cooldown begins at once, and is as long as if the run had been planned so."""
    control = Control()
    if asked == "while it runs":
        path = trained(ENDLESS, own, control, at(30, control.finish.set))
        seen = 44  # the flag is seen after the step to 32
    else:
        with pytest.raises(StoppedError):
            trained(ENDLESS, own, control, at(30, control.stop.set))
        finish = Control()
        finish.finish.set()
        path = trained(ENDLESS, own, finish)
        seen = 44
    (stage,) = read_spec(path).stages
    assert (stage.patches, stage.recipe["patches"]) == (seen, seen)
    assert stage.recipe["optimizer"]["cooldown"] == 0.25
    planned = trained(replace(COOLED, patches=seen), replace(own, out=own.out.with_name("planned")))
    assert same(generator_in(path), generator_in(planned))
    assert not same(generator_in(path), generator_in(straight))


def test_a_finish_that_was_cut_goes_on(own: Sources) -> None:
    control = Control()
    with pytest.raises(StoppedError):
        trained(replace(COOLED, validate_every=2), own, control, at(34, control.stop.set))
    reached = reached_in(own.out)
    assert reached
    assert (reached.patches, reached.end, reached.cooling) == (36, 40, True)
    finish = Control()
    finish.finish.set()
    assert read_spec(trained(ENDLESS, own, finish)).patches == 40


def test_a_run_that_is_finished_before_it_begins_takes_its_least(own: Sources) -> None:
    """A signal may come while the program is being loaded."""
    control = Control()
    control.finish.set()
    trained_now = train(COOLED, own, World(0, 1, torch.device("cpu")), lambda now: None, control)
    assert trained_now.header.patches == 4  # one step, and the cooldown that belongs to it


def test_what_cannot_be_finished_early_is_refused(
    own: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    """A rate that falls throughout, and a run that is not there; a running one goes on."""
    finish = Control()
    finish.finish.set()
    with pytest.raises(RefusedError, match="no run to finish"):
        trained(COOLED, own, finish)
    control = Control()
    path = trained(replace(RECIPE, patches=40), own, control, at(20, control.finish.set))
    assert read_spec(path).patches == 40
    assert "--export" in caplog.text
    stopping = Control()
    other = replace(own, out=own.out.with_name("other"))
    with pytest.raises(StoppedError):
        trained(RECIPE, other, stopping, at(20, stopping.stop.set))
    with pytest.raises(RefusedError, match="--export"):
        trained(RECIPE, other, finish)


# Time


@pytest.mark.parametrize("cooldown", [0.0, 0.5, 1.0])
def test_a_run_ends_with_its_minutes(cooldown: float, own: Sources) -> None:
    optimizer = replace(RECIPE.optimizer, cooldown=cooldown)
    recipe = replace(ENDLESS, optimizer=optimizer, validate_every=10**9)
    begun = time.monotonic()
    path = trained(recipe, own, Control(minutes=0.05))
    assert 3 <= time.monotonic() - begun < 60  # 3 s, and what loading and validating took
    (stage,) = read_spec(path).stages
    saved = torch.load(own.out / "checkpoint.pt", weights_only=True)
    assert stage.patches == stage.recipe["patches"] == saved["reached"]["patches"]
    assert stage.recipe["optimizer"]["cooldown"] == cooldown
    last = saved["optimizer"]["param_groups"][0]["lr"]
    full = recipe.optimizer.learning_rate
    assert last == full if cooldown == 0 else last < full / 10


def test_minutes_are_of_one_call(own: Sources) -> None:
    first, second = (trained(ENDLESS, own, Control(minutes=0.03)).read_bytes() for _ in range(2))
    assert first != second


def test_a_run_saves_every_few_seconds(own: Sources) -> None:
    recipe = replace(COOLED, validate_every=40)
    states: list[int] = []

    class Watched(World):
        def average_gradients(self, module: torch.nn.Module) -> None:
            reached = reached_in(own.out)
            states.append(reached.patches if reached else 0)

    train(
        recipe, own, Watched(0, 1, torch.device("cpu")), lambda now: None, Control(save_every_s=0)
    )
    assert states == list(range(0, 40, 2))


# Stops


def test_a_stop_saves_the_step_and_loses_nothing(own: Sources, straight: Path) -> None:
    """One in the cooldown, one before it, none at a validation."""
    for patches in (10, 30):
        control = Control()
        with pytest.raises(StoppedError, match=f"{patches + 2} patches; --resume"):
            trained(COOLED, own, control, at(patches, control.stop.set))
        reached = reached_in(own.out)
        assert reached
        assert reached.patches == patches + 2
    assert same(generator_in(trained(COOLED, own)), generator_in(straight))


def test_weights_are_written_before_they_are_scored(
    own: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("slidesr.api.training.mean_scores", broken)
    with pytest.raises(MemoryError):
        train_model(COOLED, own)
    spec = read_spec(own.out / "tiny.safetensors")
    assert (spec.patches, spec.scores) == (40, {})


def test_a_stop_while_scoring_leaves_the_weights(own: Sources) -> None:
    control = Control()
    with pytest.raises(StoppedError, match="without scores"):
        train_model(COOLED, own, control=control, on_progress=at(40, control.stop.set))
    assert read_spec(own.out / "tiny.safetensors").scores == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(number: int, own: Sources) -> None:
    with training(ENDLESS, own) as process:
        wait_for(own.out / "samples", process)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    reached = reached_in(own.out)
    assert reached
    assert f"stopped after {reached.patches:,} patches; --resume" in said
    assert "Traceback" not in said


def test_a_signal_finishes_a_run(own: Sources) -> None:
    with training(ENDLESS, own) as process:
        wait_for(own.out / "samples", process)
        process.send_signal(signal.SIGUSR1)
        made, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    (stage,) = read_spec(Path(made.strip())).stages
    assert stage.patches == stage.recipe["patches"] < ENDLESS.patches


def training(recipe: Recipe, own: Sources) -> subprocess.Popen[str]:
    path = write_toml(own.out.with_name("recipe.toml"), recipe)
    folders = ("--data", own.data, "--valid", own.valid, "-o", own.out)
    return subprocess.Popen(
        [sys.executable, "-m", "slidesr", "train", str(path), *map(str, folders), "--no-score"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Exports


def test_a_checkpoint_becomes_a_model_and_its_run_goes_on(
    own: Sources, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control = Control()
    with pytest.raises(StoppedError):
        trained(COOLED, own, control, at(20, control.stop.set))
    checkpoint = own.out / "checkpoint.pt"
    before = checkpoint.read_bytes()
    arguments = ["train", "--export", str(checkpoint), "-o", str(tmp_path / "made")]
    assert run(arguments) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "made/tiny.safetensors"
    spec, generator = read_model(path)
    (stage,) = spec.stages
    assert (stage.patches, stage.recipe["patches"]) == (22, 22)
    assert stage.recipe["optimizer"]["cooldown"] == 0  # it had not begun
    assert "22 patches" in path.with_suffix(".md").read_text()
    average = torch.load(checkpoint, weights_only=True)["average"]
    for name, weights in generator.state_dict().items():
        assert torch.equal(weights, average[f"module.{name}"].half().float())
    assert spec.scores == {}
    assert run([*arguments, "--valid", str(own.valid)]) == 0
    assert set(read_spec(path).scores) == {"a", "b"}
    assert checkpoint.read_bytes() == before
    assert same(generator_in(trained(COOLED, own)), generator_in(straight))


def test_the_end_of_a_run_can_be_exported(straight: Path, tmp_path: Path) -> None:
    made = export_checkpoint(straight.with_name("checkpoint.pt"), tmp_path)
    assert made.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("content", ["text", "encoder"])
def test_what_is_no_checkpoint_of_a_generator_is_not_exported(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    reached = {"patches": 1, "seconds": 1.0, "end": 2.0, "cooling": False}
    if content == "text":
        path.write_text("weights")
    else:
        torch.save({"recipe": "{}", "reached": reached, "header": ""}, path)
    assert run(["train", "--export", str(path), "-o", str(tmp_path / "made")]) == 2
    said = capsys.readouterr().err
    assert "checkpoint.pt: not a" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_a_run_goes_on_though_its_start_was_replaced(
    own: Sources, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a shipped model is by a newer one of its name; the header keeps that of the beginning."""
    start = tmp_path / "start.safetensors"
    spec, generator = read_model(straight)
    save_model(start, spec, generator)
    begun = read_spec(start).stages
    plan = replace(ENDLESS, name="second", start=str(start))
    control = Control()
    with pytest.raises(StoppedError):
        trained(plan, own, control, at(10, control.stop.set))
    with pytest.raises(StoppedError):
        trained(plan, own, control)
    assert caplog.text == ""
    save_model(start, spec, type(generator)(spec.generator))
    path = trained(replace(plan, patches=20), own)
    assert "as it was when the run began" in caplog.text
    assert read_spec(path).stages[:-1] == begun


# The command's other options


def test_numbers_on_the_command_line_override_the_recipe(tmp_path: Path) -> None:
    path = write_toml(tmp_path / "recipe.toml", RECIPE)
    plan = training_plan(str(path), PlanChanges(30, 6, 1e-4, 12))
    assert isinstance(plan, Recipe)
    assert (plan.patches, plan.batch, plan.validate_every) == (30, 6, 12)
    assert plan.optimizer == replace(RECIPE.optimizer, learning_rate=1e-4)
    with pytest.raises(RefusedError, match="tiny: patches and validate_every"):
        training_plan(str(path), PlanChanges(patches=4, batch=6))
    encoder = training_plan("histology-encoder", PlanChanges(learning_rate=1e-5, batch=8))
    assert (encoder.batch, encoder.optimizer.learning_rate) == (8, 1e-5)


@pytest.mark.parametrize(
    "arguments",
    [[], ["tiny.toml"], ["tiny.toml", "--data", "."], ["tiny.toml", "--export", __file__]],
    ids=str,
)
def test_a_command_that_lacks_something_says_so(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *arguments]) == 2
    assert "--data" in capsys.readouterr().err
