"""The paper's comparison as a list of runs: networks, scales, batch sizes and seeds, one budget.

Every run is a shipped recipe of the comparison at x4, `srgan-x4-fidelity` for example, as it is or
with another scale, batch size or seed and a name that says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from slidesr.train.recipe import Recipe, find_recipe, recipe_from_toml


@dataclass(frozen=True)
class _Budget:
    """What all networks get at one scale."""

    patch_px: int = 128
    share: float = 0.25  # of the patches of the recipes at x4
    seeds: tuple[int, ...] = (0,)  # of the fidelity stage; the GAN stage has the first


_BUDGETS = {  # by scale, in the order of the runs
    4: _Budget(share=1.0, seeds=(0, 1, 2)),
    2: _Budget(patch_px=64),
    8: _Budget(),
    16: _Budget(),
}


@dataclass(frozen=True)
class SuiteNetwork:
    """A network of the comparison; `batches` are those it is trained with."""

    title: str
    batches: tuple[int, ...] = (16,)


NETWORKS = {  # key: of the recipes at x4, KEY-x4-fidelity and KEY-x4
    "srgan": SuiteNetwork("SRGAN"),
    "a-srgan": SuiteNetwork("A-SRGAN"),
    "wa-srgan-bn": SuiteNetwork("WA-SRGAN, batch norm", (1, 16)),
    "wa-srgan-wn": SuiteNetwork("WA-SRGAN, weight norm", (1, 16)),
}


@dataclass(frozen=True)
class SuiteRun:
    """One run of the comparison; `start` is the run before it, None for random weights."""

    network: str  # key of NETWORKS
    batch: int  # of the fidelity stage
    recipe: Recipe
    start: SuiteRun | None = None

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def scale(self) -> int:
        return self.recipe.generator.scale


def paper_runs() -> Iterator[SuiteRun]:
    """Lists the runs of each scale: first both stages of one seed, then fidelity by other seeds."""
    kinds = [(name, batch) for name, network in NETWORKS.items() for batch in network.batches]
    for scale, budget in _BUDGETS.items():
        first, *others = budget.seeds
        for network, batch in kinds:
            fidelity = _run(network, scale, batch, first)
            yield fidelity
            yield _run(network, scale, batch, first, fidelity)
        for seed, (network, batch) in product(others, kinds):
            yield _run(network, scale, batch, seed)


def _run(
    network: str, scale: int, batch: int, seed: int, start: SuiteRun | None = None
) -> SuiteRun:
    """One run; a batch of 1 stands for one patch a step in both stages.

    AdamW's learning rate grows with the root of the batch (Malladi et al. 2022, arXiv 2205.10287),
    and the average of the weights is over as many patches.
    """
    base, budget = _at_x4(network, is_gan=start is not None), _BUDGETS[scale]
    own_batch = 1 if batch == 1 else base.batch
    ratio = own_batch / base.batch
    patches = round(base.patches * budget.share / base.batch) * base.batch
    window = min(base.generator.window, budget.patch_px // scale)
    optimizer = replace(
        base.optimizer,
        learning_rate=base.optimizer.learning_rate * math.sqrt(ratio),
        ema=base.optimizer.ema**ratio,
    )
    recipe = replace(
        base,
        generator=replace(base.generator, scale=scale, window=window),
        patches=patches,
        batch=own_batch,
        seed=seed,
        validate_every=patches,
        data=replace(base.data, patch_px=budget.patch_px),
        optimizer=optimizer,
    )
    if recipe != base:
        name = f"{network}-x{scale}-batch{batch}-seed{seed}" + ("" if start else "-fidelity")
        recipe = replace(recipe, name=name, start=start.name if start else "")
    return SuiteRun(network, batch, recipe, start)


@cache
def _at_x4(network: str, *, is_gan: bool) -> Recipe:
    name = f"{network}-x4" if is_gan else f"{network}-x4-fidelity"
    return recipe_from_toml(Recipe, find_recipe(name))
