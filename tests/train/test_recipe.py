"""Recipes: they survive TOML, the shipped ones load, and a wrong one is refused in one line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.training import GAN, RECIPE, write_toml

from slidesr.errors import RefusedError
from slidesr.model.weights import find_model, read_spec
from slidesr.nets.generator import GeneratorSpec
from slidesr.train.data import DataRecipe
from slidesr.train.recipe import (
    CriticRecipe,
    LossRecipe,
    OptimizerRecipe,
    Recipe,
    find_recipe,
    recipe_from_toml,
)

RECIPES = sorted((Path(__file__).parents[2] / "docs/recipes").glob("*.toml"))
SHIPPED = [path.stem for path in RECIPES if "[encoder]" not in path.read_text()]
SRGAN = GeneratorSpec(2, "batch", 0, block="plain", channels=8, blocks=1)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        GAN,
        replace(RECIPE, generator=SRGAN, start="a.safetensors", seed=7),
        replace(GAN, optimizer=OptimizerRecipe(clip_norm=math.inf, cooldown=0.0, ema=0.0)),
    ],
    ids=["fidelity", "gan", "srgan", "inf"],
)
def test_a_recipe_survives_toml(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe_from_toml(Recipe, write_toml(tmp_path / "recipe.toml", recipe)) == recipe


def test_what_a_recipe_leaves_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    least = 'name = "a"\npatches = 99\nhigh_um_per_px = [0.25, 0.5]\n[generator]\nscale = 2\n'
    path.write_text(least)
    loaded = recipe_from_toml(Recipe, path)
    assert loaded == Recipe("a", GeneratorSpec(2), 99, (0.25, 0.5))
    assert (loaded.data, loaded.optimizer) == (DataRecipe(), OptimizerRecipe())
    assert (loaded.loss, loaded.critic) == (LossRecipe(), None)
    path.write_text(f"{least}[critic]\n")
    assert recipe_from_toml(Recipe, path).critic == CriticRecipe()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_can_be_run(name: str) -> None:
    """Also after another one, where it goes on with what that one makes."""
    recipe = recipe_from_toml(Recipe, find_recipe(name))
    assert recipe.name in (name, f"wa-srgan-x4-{name.removeprefix('paper-')}")
    scale, window = recipe.generator.scale, recipe.generator.window
    if window:
        windows, rest = divmod(recipe.data.patch_px, scale * window)
        assert (windows, rest) in ((1, 0), (2, 0))  # attention sees in use what it saw here
    if recipe.start:
        begun = generator_of(recipe.start)
        assert replace(begun, scale=scale, window=window) == recipe.generator


def generator_of(start: str) -> GeneratorSpec:
    if start in SHIPPED:
        return recipe_from_toml(Recipe, find_recipe(start)).generator
    return read_spec(find_model(start)).generator


def test_the_papers_two_forms_differ_by_the_published_quirks_alone() -> None:
    described, published = (
        recipe_from_toml(Recipe, find_recipe(f"paper-as-{form}"))
        for form in ("described", "published")
    )
    assert described.critic
    assert published == replace(
        described,
        name=published.name,
        loss=replace(described.loss, vgg19_normalised=False),
        critic=replace(described.critic, reaches_generator=False, penalty_mix="normal"),
    )


def test_a_recipe_is_found_by_name_or_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_recipe("paper-as-published").name == "paper-as-published.toml"
    path = write_toml(tmp_path / "mine.toml", RECIPE)
    monkeypatch.chdir(tmp_path)
    assert find_recipe("mine.toml").samefile(path)
    for missing in ("", "absent", ".", "../recipes/paper-as-published"):
        with pytest.raises(RefusedError, match=r"paper-as-described, paper-as-published"):
            find_recipe(missing)


def test_the_stage_is_gan_where_more_than_pixels_has_a_say() -> None:
    assert RECIPE.stage == "fidelity"
    assert GAN.stage == "gan"
    felt = replace(RECIPE, loss=LossRecipe(perceptual_weight=1.0))
    assert felt.stage == "gan"
    published = replace(
        RECIPE,
        loss=LossRecipe(adversarial_weight=1.0),
        critic=CriticRecipe(reaches_generator=False),
    )
    assert published.stage == "fidelity"
    assert replace(published, critic=CriticRecipe()).stage == "gan"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"surprise": 1}, "surprise"),
        ({"data__surprise": 1}, "data.surprise"),
        ({"generator__surprise": 1}, "generator.surprise"),
        ({"critic__surprise": 1}, "critic.surprise"),
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name 3"),
        ({"generator": 3}, "generator is not a table"),
        ({"critic": 3}, "critic is not a table"),
        ({"generator__scale": 3}, "scale 3"),
        ({"generator__block": "thin"}, "'thin'"),
        ({"generator__window": 3}, "window of 3 px"),
        ({"generator__window": 16}, "window of 16 px"),
        ({"data__patch_px": 17}, "patch_px 17"),
        ({"data__context_px": 3}, "context_px 3"),
        ({"high_um_per_px": [0.5, 0.25]}, "high_um_per_px"),
        ({"high_um_per_px": [0.0, 0.25]}, "high_um_per_px"),
        ({"high_um_per_px": [0.5]}, "high_um_per_px"),
        ({"high_um_per_px": [0.25, 0.5, 1.0]}, "high_um_per_px"),
        ({"high_um_per_px": 0.5}, "high_um_per_px 0.5"),
        ({"batch": 0}, "batch"),
        ({"batch": "two"}, "batch 'two'"),
        ({"batch": 2.5}, "batch 2.5"),
        ({"batch": True}, "batch True"),
        ({"patches": 1}, "patches"),
        ({"validate_every": 1}, "validate_every"),
        ({"seed": -1}, "seed"),
        ({"start": 1}, "start 1"),
        ({"loss": "l1"}, "loss is not a table"),
        ({"loss__pixel": "l3"}, "'l3'"),
        ({"loss__judged_px": 0}, "judged_px 0"),
        ({"loss__judged_px": 3}, "judged_px 3"),
        ({"loss__pixel_weight": -1}, "pixel_weight -1"),
        ({"loss__lite0_stages": [1.0]}, "lite0_stages (1.0,) are not five"),
        (
            {"loss__balanced": True, "loss__pixel_weight": 0.0, "loss__colour_weight": 1.0},
            "balanced",
        ),
        ({"critic__loss": "softplus"}, "loss 'softplus' is not one of"),
        ({"critic__penalty": "two"}, "penalty 'two' is not one of"),
        ({"critic__steps": 0}, "steps 0 is not positive"),
        ({"loss__colour_weight": math.inf}, "colour_weight inf"),
        ({"loss__frequency_weight": math.nan}, "frequency_weight nan"),
        ({"loss__vgg19_normalised": 1}, "vgg19_normalised 1"),
        ({"critic__norm": "spectral"}, "'spectral'"),
        ({"critic__channels": 9}, "9"),
        ({"critic__learning_rate": 0}, "learning_rate"),
        ({"critic__betas": [0.9, 1.0]}, "betas"),
        ({"critic__betas": [0.9]}, "betas"),
        ({"critic__penalty_weight": -1}, "penalty_weight"),
        ({"critic__penalty_every": 0}, "penalty_every"),
        ({"critic__penalty_mix": "even"}, "'even'"),
        ({"critic__sees": "stars"}, "'stars'"),
        ({"critic__maps": []}, "maps"),
        ({"critic__maps": [0, 1]}, "maps"),
        ({"critic__maps": [6]}, "maps"),
        ({"critic__maps": [3, 4, 5]}, "maps are for a critic that sees lite0"),
        ({"critic__begins_after": -1}, "begins_after"),
        ({"optimizer__cooldown": 1.5}, "cooldown 1.5"),
        ({"optimizer__kind": "sgd"}, "'sgd'"),
        ({"optimizer__learning_rate": 0.0}, "learning_rate"),
        ({"optimizer__learning_rate": "fast"}, "'fast'"),
        ({"optimizer__clip_norm": 0.0}, "clip_norm"),
        ({"optimizer__clip_norm": math.nan}, "clip_norm"),
        ({"optimizer__ema": 1.0}, "ema"),
        ({"optimizer__betas": [0.9, 1.0]}, "betas"),
        ({"optimizer__betas": [0.9]}, "betas"),
        ({"optimizer__betas": [0.9, "much"]}, "betas"),
        ({"optimizer__weight_decay": -1.0}, "weight_decay"),
        ({"optimizer__warmup": -1}, "warmup"),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_toml(tmp_path / "recipe.toml", GAN, **changes)
    with pytest.raises(RefusedError) as caught:
        recipe_from_toml(Recipe, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["adversarial_weight", "feature_matching_weight"])
def test_a_critics_loss_needs_a_critic(key: str, tmp_path: Path) -> None:
    path = write_toml(tmp_path / "recipe.toml", RECIPE, **{f"loss__{key}": 1.0})
    with pytest.raises(RefusedError, match=r"recipe\.toml: .*\[critic\]"):
        recipe_from_toml(Recipe, path)


@pytest.mark.parametrize("recipe", [RECIPE, GAN], ids=["fidelity", "gan"])
def test_a_generator_without_a_loss_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    """The critic's losses do not count: they may begin late, or not reach the generator."""
    others = ("frequency", "colour", "grid", "border", "border_detail", "total_variation")
    nothing = {f"loss__{name}_weight": 0.0 for name in ("pixel", *others)}
    path = write_toml(tmp_path / "recipe.toml", recipe, **nothing)
    with pytest.raises(RefusedError, match="loss"):
        recipe_from_toml(Recipe, path)
    for name in others:
        path = write_toml(path, recipe, **nothing | {f"loss__{name}_weight": 1.0})
        assert recipe_from_toml(Recipe, path).name == "tiny"


@pytest.mark.parametrize("key", ["border_weight", "border_detail_weight"])
@pytest.mark.parametrize("changes", [{"data__patch_px": 8}, {"generator__window": 0}], ids=repr)
def test_borders_need_windows_side_by_side(
    changes: dict[str, int], key: str, tmp_path: Path
) -> None:
    own = {"loss__border_weight": 0.0, f"loss__{key}": 1.0}
    path = write_toml(tmp_path / "recipe.toml", RECIPE, **own | changes)
    with pytest.raises(RefusedError, match=rf"recipe\.toml: .*{key}"):
        recipe_from_toml(Recipe, path)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"", b"name = 'a'\n"], ids=repr)
def test_what_is_no_recipe_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=r"recipe\.toml") as caught:
        recipe_from_toml(Recipe, path)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"absent\.toml"):
        recipe_from_toml(Recipe, tmp_path / "absent.toml")
