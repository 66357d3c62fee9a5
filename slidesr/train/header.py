"""Builds the header that is stored with a run's weights."""

from __future__ import annotations

import csv
import platform
from pathlib import Path

import torch

from slidesr.errors import RefusedError
from slidesr.model.stages import TrainingStage
from slidesr.model.weights import ModelSpec
from slidesr.train.initial_weights import recorded
from slidesr.train.loop import Trained
from slidesr.train.recipe import Recipe

LICENCE = "Apache-2.0 for the weights; the terms of the data are listed with it"


def header_for(recipe: Recipe, data: Path, trained: Trained) -> ModelSpec:
    """Builds the header of a run's weights, without scores.

    It goes on from the header of the weights that the run started from: their stages come first,
    and the terms of their data are kept. The hash of its own weights is added when it is written.
    """
    finest, coarsest = recipe.high_um_per_px
    scale = recipe.generator.scale
    start = trained.start
    return ModelSpec(
        name=recipe.name,
        generator=recipe.generator,
        stage=recipe.stage,
        trained_um_per_px=(finest * scale, coarsest * scale),
        licence=LICENCE,
        compressed_inputs=recipe.data.sees_jpeg,
        data=(start.data if start else {}) | terms_of(data),
        stages=(*(start.stages if start else ()), _own_stage(recipe, trained)),
    )


def _own_stage(recipe: Recipe, trained: Trained) -> TrainingStage:
    start = trained.start
    return TrainingStage(
        name=recipe.name,
        recipe=recorded(recipe, start),
        start=start.stages[-1].name if start else "",
        weights_sha256="",
        patches=trained.patches,
        seconds=round(trained.seconds),
        device=device_text(),
        loss_networks=trained.loss_networks,
    )


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
