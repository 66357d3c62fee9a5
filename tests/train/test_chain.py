"""Chains of runs: what a recipe starts from is found or trained first, and the header tells it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import GAN, RECIPE, same, sources_in, write_toml

from slidesr.api.training import PlanChanges, TrainingOptions, train_model, training_plan
from slidesr.cli import run as run_cli
from slidesr.errors import RefusedError
from slidesr.model.stages import TrainingStage
from slidesr.model.weights import ModelSpec, list_models, read_model, read_spec, save_model
from slidesr.nets.generator import Generator
from slidesr.train.chain import Run, runs_to
from slidesr.train.initial_weights import initial_generator
from slidesr.train.loop import Sources
from slidesr.train.recipe import Recipe, find_recipe, recipe_as_dict, recipe_from_toml

RECIPES = sorted((Path(__file__).parents[2] / "docs/recipes").glob("*.toml"))
GENERATORS = [path.stem for path in RECIPES if "[encoder]" not in path.read_text()]
SHIPPED = {spec.name: spec for _, spec in list_models()}

FIRST = replace(RECIPE, name="first", patches=12, validate_every=4)
SECOND = replace(FIRST, name="second", start="first", seed=1)
THIRD = replace(GAN, name="third", start="second", patches=12, validate_every=4, seed=2, ablates="")
TINY = (FIRST, SECOND, THIRD)
UNSCORED = TrainingOptions(score=False)
FROM_SCRATCH = replace(UNSCORED, from_scratch=True)
RESUMED = replace(FROM_SCRATCH, resume=True)


def shipped_recipe(name: str) -> Recipe:
    return recipe_from_toml(Recipe, find_recipe(name))


def names(runs: list[Run]) -> list[str]:
    return [run.recipe.name for run in runs]


# The shipped recipes


@pytest.mark.parametrize("name", GENERATORS)
def test_every_recipe_leads_back_to_random_weights(name: str, tmp_path: Path) -> None:
    """Along networks that can start from each other, each run in a folder of its own."""
    runs = runs_to(shipped_recipe(name), tmp_path, from_scratch=True)
    assert runs[0].recipe.start == ""
    assert runs[-1] == replace(runs[-1], out=tmp_path)
    assert len({run.out for run in runs}) == len(runs)
    for before, run in pairwise(runs):
        assert run.recipe.start == str(before.weights)
        before.out.mkdir()
        stage = TrainingStage(before.recipe.name, {}, "", "", 0, 0, "none")
        spec = ModelSpec("made", before.recipe.generator, "fidelity", (1, 2), "-", stages=(stage,))
        save_model(before.weights, spec, Generator(spec.generator))
        made, start = (
            initial_generator(run.recipe.generator, run.recipe.start),
            read_model(before.weights)[1],
        )
        made_head, start_head = made.state_dict(), start.state_dict()
        assert torch.equal(made_head["head.0.weight"], start_head["head.0.weight"])


@pytest.mark.parametrize("name", GENERATORS)
def test_every_recipe_starts_from_what_is_shipped(name: str, tmp_path: Path) -> None:
    """It goes back no further than to random weights or to a shipped model."""
    runs = runs_to(shipped_recipe(name), tmp_path)
    assert runs[0].recipe.start in ("", *SHIPPED)
    assert not set(names(runs[:-1])) & set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_header_tells_the_chain_of_the_recipes(name: str, tmp_path: Path) -> None:
    stages = SHIPPED[name].stages
    runs = runs_to(shipped_recipe(name), tmp_path, from_scratch=True)
    assert [stage.name for stage in stages] == names(runs)
    for stage in stages:
        recipe = shipped_recipe(stage.name)
        assert flat(renamed(stage.recipe)).items() <= flat(recipe_as_dict(recipe)).items()
        assert stage.patches == recipe.patches
        if stage.name in SHIPPED:  # the very weights that are shipped
            assert stage == SHIPPED[stage.name].stages[-1]


def renamed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as it is written now: older headers call the cooldown by its schedule."""
    optimizer = dict(recipe["optimizer"])
    if schedule := optimizer.pop("schedule", None):
        optimizer["cooldown"] = {"cosine": 1.0, "constant": 0.0}[schedule]
    return recipe | {"optimizer": optimizer}


def flat(table: dict[str, Any], where: str = "") -> dict[str, str]:
    """Values by dotted keys, as JSON."""
    values: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            values |= flat(value, f"{where}{key}.")
        else:
            values[where + key] = json.dumps(value)
    return values


def test_no_shipped_header_holds_a_place_of_a_machine() -> None:
    for spec in SHIPPED.values():
        texts = [spec.start, *(stage.recipe["start"] for stage in spec.stages)]
        assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for text in texts)


# A chain of tiny runs


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three recipes in the place of the shipped ones."""
    return recipes_in(tmp_path / "recipes", monkeypatch)


def recipes_in(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    for recipe in TINY:
        write_toml(folder / f"{recipe.name}.toml", recipe)
    patch.setattr("slidesr.train.chain.recipes_folder", lambda: folder)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return sources_in(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def whole(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a chain that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        recipes_in(folder / "recipes", patch)
        assert train_model(THIRD, replace(sources, out=folder / "run"), FROM_SCRATCH)
    return folder / "run"


def stages_in(out: Path) -> list[tuple[str, str, str, int]]:
    """Of the last run's header, what does not depend on the clock."""
    return [
        (stage.name, stage.start, stage.weights_sha256, stage.patches)
        for stage in read_spec(out / "third.safetensors").stages
    ]


def test_a_chain_is_trained_in_order_and_told_by_its_header(whole: Path) -> None:
    spec = read_spec(whole / "third.safetensors")
    first, second = (
        read_spec(whole / f"{name}/{name}.safetensors") for name in ("first", "second")
    )
    assert spec.stages[:2] == second.stages
    assert spec.stages[:1] == first.stages
    assert [stage.name for stage in spec.stages] == ["first", "second", "third"]
    assert [stage.start for stage in spec.stages] == ["", "first", "second"]
    assert spec.patches == 36
    for stage, recipe in zip(spec.stages, TINY, strict=True):
        assert flat(stage.recipe) == flat(recipe_as_dict(recipe))
    card = (whole / "third.md").read_text()
    assert "| third | second | 12 |" in card
    assert "36 patches" in card


def test_no_place_of_this_machine_is_written(whole: Path) -> None:
    written = [*whole.rglob("*.safetensors"), *whole.rglob("*.md"), *whole.rglob("checkpoint.pt")]
    assert len(written) == 9
    assert not any(str(whole.parent).encode() in path.read_bytes() for path in written)


def test_a_chain_is_what_its_runs_make_one_by_one(
    whole: Path, sources: Sources, tmp_path: Path, recipes: Path
) -> None:
    start = ""
    for recipe in TINY:
        own = replace(sources, out=tmp_path / recipe.name)
        plan = training_plan(str(recipes / f"{recipe.name}.toml"), PlanChanges(start=start))
        start = str(train_model(plan, own, UNSCORED))
    assert same(read_model(Path(start))[1], read_model(whole / "third.safetensors")[1])


class Stopped(Exception):
    """What a power cut is to a run."""


def after(calls: int) -> Callable[[object], None]:
    """A callback that stops the work at one of its calls."""
    left = iter(range(calls - 1))

    def stop(now: object) -> None:
        if next(left, None) is None:
            raise Stopped

    return stop


def test_a_stopped_chain_goes_on_to_the_same_bits(
    whole: Path, sources: Sources, tmp_path: Path, recipes: Path
) -> None:
    """Stopped within the first run, between it and the second, and within the last."""
    own = replace(sources, out=tmp_path / "run")
    begun: list[str] = []
    with pytest.raises(Stopped):
        train_model(THIRD, own, FROM_SCRATCH, on_progress=after(2))
    with pytest.raises(Stopped):
        train_model(THIRD, own, RESUMED, on_run=after(2))
    assert (own.out / "first/first.safetensors").exists()
    assert not (own.out / "second").exists()
    with pytest.raises(Stopped):  # three reports of the second, the first of the third
        train_model(THIRD, own, RESUMED, on_progress=after(4))
    reports: list[int] = []
    train_model(
        THIRD,
        own,
        RESUMED,
        on_run=lambda plan: begun.append(plan.name),
        on_progress=lambda now: reports.append(now.patches),
    )
    assert (begun, reports) == (["third"], [8, 12])
    assert stages_in(own.out) == stages_in(whole)


def test_a_chain_that_ended_is_not_trained_again(
    whole: Path, sources: Sources, recipes: Path
) -> None:
    own, reports = replace(sources, out=whole), list[int]()
    before = stages_in(whole)
    train_model(THIRD, own, RESUMED, on_progress=lambda now: reports.append(now.patches))
    assert not reports
    assert stages_in(whole) == before
    with pytest.raises(RefusedError, match="--resume"):
        train_model(THIRD, own, FROM_SCRATCH)


def test_a_checkpoint_belongs_to_the_weights_that_it_started_from(
    whole: Path, sources: Sources, tmp_path: Path, recipes: Path
) -> None:
    """Another file in the same place is another start."""
    start = tmp_path / "start.safetensors"
    start.write_bytes((whole / "first/first.safetensors").read_bytes())
    own, plan = replace(sources, out=tmp_path / "run"), replace(SECOND, start=str(start))
    with pytest.raises(Stopped):
        train_model(plan, own, UNSCORED, on_progress=after(1))
    start.write_bytes((whole / "second/second.safetensors").read_bytes())
    with pytest.raises(RefusedError, match="a different recipe"):
        train_model(plan, own, replace(UNSCORED, resume=True))


def test_a_start_that_is_a_recipe_is_trained_first_and_said(
    sources: Sources,
    tmp_path: Path,
    recipes: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--patches` is for the last run alone."""
    out = tmp_path / "run"
    folders = ("--data", sources.data, "--valid", sources.valid, "-o", out)
    arguments = ["train", str(recipes / "second.toml"), *map(str, folders), "--patches", "4"]
    with caplog.at_level("INFO", "slidesr"):
        assert run_cli([*arguments, "--no-score"]) == 0
    assert caplog.messages == ["first is not shipped: training it first, 12 patches"]
    path = Path(capsys.readouterr().out.strip())
    assert path == out / "second.safetensors"
    assert [stage.patches for stage in read_spec(path).stages] == [12, 4]


def test_what_is_there_is_used(
    whole: Path, sources: Sources, tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in the output folder, else shipped; neither counts from scratch."""
    assert names(runs_to(THIRD, tmp_path)) == ["first", "second", "third"]
    assert names(runs_to(THIRD, whole)) == ["third"]
    assert names(runs_to(THIRD, whole, from_scratch=True)) == ["first", "second", "third"]
    assert names(runs_to(THIRD, whole, from_scratch=True, resume=True)) == ["third"]
    monkeypatch.setattr("slidesr.train.chain.models_folder", lambda: whole / "first")
    runs = runs_to(THIRD, tmp_path)
    assert names(runs) == ["second", "third"]
    assert runs[0].recipe.start == "first"
    half = Path(shutil.copytree(whole, tmp_path / "half"))
    (half / "second/second.md").unlink()  # stopped before all was written
    assert names(runs_to(THIRD, half, from_scratch=True, resume=True)) == ["second", "third"]


@pytest.mark.parametrize(
    ("start", "said"),
    [("third", "circular"), ("nowhere", "nowhere"), ("first.safetensors", "no recipe")],
)
def test_a_start_that_leads_nowhere_is_refused(
    start: str, said: str, tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first.safetensors").touch()
    write_toml(recipes / "first.toml", FIRST, start=start)
    with pytest.raises(RefusedError, match=said) as caught:
        runs_to(THIRD, tmp_path / "run", from_scratch=True)
    assert "\n" not in str(caught.value)


def test_a_chain_of_other_networks_is_refused_before_it_begins(
    sources: Sources, tmp_path: Path, recipes: Path
) -> None:
    write_toml(recipes / "first.toml", FIRST, generator__channels=16)
    own = replace(sources, out=tmp_path / "run")
    with pytest.raises(RefusedError, match="second cannot start from first"):
        train_model(THIRD, own, FROM_SCRATCH)
    assert not own.out.exists()


def test_a_start_that_does_not_tell_its_training_is_refused(
    sources: Sources, tmp_path: Path
) -> None:
    path = tmp_path / "bare.safetensors"
    spec = ModelSpec("bare", FIRST.generator, "fidelity", (1.0, 2.0), "CC0")
    save_model(path, spec, Generator(spec.generator))
    own = replace(sources, out=tmp_path / "run")
    with pytest.raises(RefusedError, match=r"bare\.safetensors: .*how it was trained"):
        train_model(
            replace(SECOND, start=str(path)),
            own,
            UNSCORED,
            on_run=lambda plan: pytest.fail("began"),
        )
    assert not own.out.exists()


def test_the_terms_of_earlier_data_are_kept(whole: Path, sources: Sources, tmp_path: Path) -> None:
    path, generator = tmp_path / "start.safetensors", read_model(whole / "third.safetensors")
    save_model(path, replace(generator[0], data={"A": "CC0"}), generator[1])
    own = replace(sources, out=tmp_path / "run")
    made = train_model(replace(SECOND, start=str(path)), own, UNSCORED)
    assert made is not None
    assert read_spec(made).data == {"A": "CC0"}
