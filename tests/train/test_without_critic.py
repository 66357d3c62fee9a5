"""What the critic brings: the same run without it, under a name that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.training import GAN, RECIPE, run_alone, same, sources_in, write_toml

from slidesr.api.training import PlanChanges, training_plan
from slidesr.benchmark.methods import of_model
from slidesr.cli import run as run_cli
from slidesr.errors import RefusedError
from slidesr.imaging.metrics import psnr_db
from slidesr.imaging.resample import bicubic_down
from slidesr.model.model import Model, load_model
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator
from slidesr.train.loop import Sources
from slidesr.train.recipe import CriticRecipe, LossRecipe, Recipe, without_critic

U8 = NDArray[np.uint8]
DIFFERENT_DB = 50.0  # two outputs nearer than this are the same picture
HEAVY = replace(
    GAN,
    name="heavy",
    loss=LossRecipe(adversarial_weight=1.0, feature_matching_weight=0.1),
    critic=CriticRecipe(channels=8, learning_rate=1e-3, penalty_every=2),
)
assert HEAVY.critic is not None
DEAF = replace(
    HEAVY,
    name="deaf",
    loss=LossRecipe(adversarial_weight=1.0),
    critic=replace(HEAVY.critic, reaches_generator=False),
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return sources_in(tmp_path_factory.mktemp("training"))


def generators(recipe: Recipe, sources: Sources, out: Path) -> tuple[Generator, Generator]:
    """The generator of a recipe, and that of the same run without its critic."""
    runs = (recipe, without_critic(recipe))
    ours, theirs = (run_alone(run, replace(sources, out=out / run.name)).generator for run in runs)
    return ours, theirs


def agreement_db(ours: Generator, theirs: Generator, section: U8) -> float:
    """PSNR between the outputs of two generators on an image that neither was trained on."""
    low = bicubic_down(section[384:512, 384:512], RECIPE.generator.scale)
    spec = ModelSpec("tiny", RECIPE.generator, "fidelity", (0.5, 1.0), "CC0")
    outputs = [Model(spec, each, "").enlarge(low) for each in (ours, theirs)]
    return psnr_db(*outputs)


def test_a_critic_that_acts_changes_what_is_made(
    sources: Sources, tmp_path: Path, section: U8
) -> None:
    ours, theirs = generators(HEAVY, sources, tmp_path)
    assert agreement_db(ours, theirs, section) < DIFFERENT_DB


def test_a_critic_that_does_not_act_would_be_found_out(
    sources: Sources, tmp_path: Path, section: U8
) -> None:
    """Where its gradients are detached, the same measure says that nothing differs."""
    ours, theirs = generators(DEAF, sources, tmp_path)
    assert same(ours, theirs)
    assert agreement_db(ours, theirs, section) > DIFFERENT_DB


def test_all_but_the_critic_is_the_same() -> None:
    ablated = without_critic(GAN)
    assert ablated.name == "tiny-without-critic"
    assert ablated.ablates == "tiny"
    restored = replace(
        ablated,
        name="tiny",
        ablates="",
        critic=GAN.critic,
        loss=replace(
            ablated.loss,
            adversarial_weight=GAN.loss.adversarial_weight,
            feature_matching_weight=GAN.loss.feature_matching_weight,
        ),
    )
    assert restored == GAN
    assert (ablated.loss.adversarial_weight, ablated.loss.feature_matching_weight) == (0, 0)


def test_the_command_leaves_the_critic_out_and_the_header_says_so(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", GAN)
    folders = ("--data", sources.data, "--valid", sources.valid, "-o", tmp_path / "run")
    arguments = ["train", str(recipe), *map(str, folders), "--patches", "4", "--no-score"]
    assert run_cli([*arguments, "--without-critic"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.name == "tiny-without-critic.safetensors"
    model = load_model(str(path))
    assert model.spec.ablates == "tiny"
    assert of_model(model).facts["ablates"] == "tiny"
    assert "repeats `tiny` without its critic" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", ["wa-srgan-x4-fidelity", "histology-encoder"])
def test_a_recipe_without_a_critic_is_refused(name: str) -> None:
    with pytest.raises(RefusedError, match=rf"{name} .*critic") as caught:
        training_plan(name, PlanChanges(without_critic=True))
    assert "\n" not in str(caught.value)


def test_a_recipe_with_a_critic_is_no_ablation(tmp_path: Path) -> None:
    path = write_toml(tmp_path / "recipe.toml", GAN, ablates="tiny")
    with pytest.raises(RefusedError, match="ablates 'tiny'"):
        training_plan(str(path))
