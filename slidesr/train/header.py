"""Builds the header that is stored with a run's weights."""

from __future__ import annotations

import csv
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from slidesr.errors import RefusedError
from slidesr.model.stages import TrainingStage
from slidesr.model.weights import ModelSpec
from slidesr.train.checkpoint import Reached
from slidesr.train.initial_weights import recorded
from slidesr.train.recipe import Recipe

LICENCE = "Apache-2.0 for the weights; the terms of the data are listed with it"


@dataclass(frozen=True)
class Origin:
    """What a run's header tells of before the run itself: its recipe, its data, its start."""

    recipe: Recipe
    terms: dict[str, str]  # data set -> licence
    start: ModelSpec | None  # the header of the weights it started from
    loss_networks: tuple[str, ...] = ()  # pretrained networks in its losses


def header_for(origin: Origin, reached: Reached) -> ModelSpec:
    """Builds the header of a run's weights as far as it has come, without scores.

    It goes on from the header of the weights that the run started from: their stages come first,
    and the terms of their data are kept. The hash of its own weights is added when it is written.
    """
    recipe, start = origin.recipe, origin.start
    finest, coarsest = recipe.high_um_per_px
    scale = recipe.generator.scale
    return ModelSpec(
        name=recipe.name,
        generator=recipe.generator,
        stage=recipe.stage,
        trained_um_per_px=(finest * scale, coarsest * scale),
        licence=LICENCE,
        compressed_inputs=recipe.data.sees_jpeg,
        data=(start.data if start else {}) | origin.terms,
        stages=(*(start.stages if start else ()), _own_stage(origin, reached)),
    )


def _own_stage(origin: Origin, reached: Reached) -> TrainingStage:
    recipe, start = origin.recipe, origin.start
    return TrainingStage(
        name=recipe.name,
        recipe=recorded(_as_carried_out(recipe, reached), start),
        start=start.stages[-1].name if start else "",
        weights_sha256="",
        patches=reached.patches,
        seconds=round(reached.seconds),
        device=device_text(),
        loss_networks=origin.loss_networks,
    )


def _as_carried_out(recipe: Recipe, reached: Reached) -> Recipe:
    """The recipe that makes these weights: as long as the run was, and cooled down if it was."""
    if reached.cooling:
        return replace(recipe, patches=max(round(reached.end), recipe.batch))
    patches = max(reached.patches, recipe.batch)
    return replace(recipe, patches=patches, optimizer=replace(recipe.optimizer, cooldown=0.0))


def device_text() -> str:
    """Describes the training device, for a header."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def terms_of(data: Path) -> dict[str, str]:
    """Reads data set -> licence from DATA/manifest.csv; empty without a manifest.

    Raises RefusedError unless every row has a `dataset` and a `licence`.
    """
    manifest = data / "manifest.csv"
    if not manifest.is_file():
        return {}
    try:
        with manifest.open(newline="") as file:
            rows = csv.DictReader(file, restval="", strict=True)
            terms = {row["dataset"]: row["licence"] for row in rows}
            if not all(terms.values()):
                raise ValueError("a row has no licence")
            return terms
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise RefusedError(
            f"{manifest}: the columns dataset and licence are required in every row"
        ) from error
