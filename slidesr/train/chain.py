"""The runs that lead to a recipe's weights: its own, and before it those of its start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.model.weights import models_folder
from slidesr.runtime.bundled_files import bundled_or_file
from slidesr.train.initial_weights import can_start
from slidesr.train.recipe import Recipe, recipe_from_toml, recipes_folder


@dataclass(frozen=True)
class Run:
    """One run, and the folder of its checkpoint, weights and card."""

    recipe: Recipe
    out: Path

    @property
    def weights(self) -> Path:
        return self.out / f"{self.recipe.name}.safetensors"

    @property
    def is_finished(self) -> bool:
        return self.weights.is_file() and self.weights.with_suffix(".md").is_file()


def runs_to(
    recipe: Recipe, out: Path, *, from_scratch: bool = False, resume: bool = False
) -> list[Run]:
    """Lists the runs to do, first to last; the last is that of `recipe`, in `out`.

    Those before it have folders of their own in `out`, and each starts from the file of the one
    before. The list goes back to weights that are there: made in `out`, shipped, or a file; with
    `from_scratch` to random weights, except for runs that `resume` finds finished. Raises
    RefusedError for a start that is not to be found, circular, or of another network.
    """

    def leading_to(run: Run, after: tuple[str, ...]) -> list[Run]:
        name, start = run.recipe.name, run.recipe.start
        if not start:
            return [run]
        before = _recipe_named(start)
        earlier = Run(before, out / before.name) if before else None
        if earlier and earlier.is_finished and (resume or not from_scratch):
            return [_started_from(earlier, run)]
        if not from_scratch and _has_weights(start):
            return [run]
        if earlier is None:
            kinds = "recipe" if from_scratch else "shipped model, file or recipe"
            raise RefusedError(f"{start}: no {kinds}, so {name} cannot start from it")
        chain = (*after, name)
        if earlier.recipe.name in chain:
            raise RefusedError(f"circular starts: {' from '.join((*chain, earlier.recipe.name))}")
        return [*leading_to(earlier, chain), _started_from(earlier, run)]

    return leading_to(Run(recipe, out), ())


def _started_from(earlier: Run, run: Run) -> Run:
    if not can_start(run.recipe.generator, earlier.recipe.generator):
        raise RefusedError(
            f"{run.recipe.name} cannot start from {earlier.recipe.name}: not the same network"
        )
    return replace(run, recipe=replace(run.recipe, start=str(earlier.weights)))


def _recipe_named(start: str) -> Recipe | None:
    path = bundled_or_file(start, recipes_folder(), ".toml")
    if path is None or path.suffix != ".toml":
        return None
    return recipe_from_toml(Recipe, path)


def _has_weights(start: str) -> bool:
    path = bundled_or_file(start, models_folder(), ".safetensors")
    return path is not None and path.suffix != ".toml"
