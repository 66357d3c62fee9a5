"""Builds the header that is stored with a run's weights."""

from __future__ import annotations

import csv
import platform
from dataclasses import replace
from pathlib import Path

import torch

from slidesr.errors import RefusedError
from slidesr.model.weights import ModelSpec
from slidesr.train.loop import Trained
from slidesr.train.recipe import Recipe, recipe_as_dict

LICENCE = "Apache-2.0 for the weights; the terms of the data are listed with it"


def header_for(recipe: Recipe, data: Path, trained: Trained) -> ModelSpec:
    """Builds the header of a run's weights, without scores.

    Of a `start` given as a file only the stem is recorded, since a header must not contain paths.
    """
    finest, coarsest = recipe.high_um_per_px
    scale = recipe.generator.scale
    start = Path(recipe.start).name.removesuffix(".safetensors")
    return ModelSpec(
        name=recipe.name,
        generator=recipe.generator,
        stage=recipe.stage,
        trained_um_per_px=(finest * scale, coarsest * scale),
        licence=LICENCE,
        compressed_inputs=recipe.data.sees_jpeg,
        data=terms_of(data),
        recipe=recipe_as_dict(replace(recipe, start=start)),
        training={
            "patches": trained.patches,
            "seconds": round(trained.seconds),
            "perceptual_network": trained.perceptual_network,
            "device": device_text(),
        },
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
