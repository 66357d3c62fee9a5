"""What a finished run says of itself in the header of its weights."""

from __future__ import annotations

import csv
import platform
from pathlib import Path

import torch

from slidesr.errors import RefusedError
from slidesr.model.weights import ModelSpec
from slidesr.train.loop import Trained
from slidesr.train.recipe import Recipe, recipe_as_dict

LICENCE = "Apache-2.0 for the weights; the terms of the data are listed with it"


def described(recipe: Recipe, data: Path, trained: Trained) -> ModelSpec:
    """The header of a run's weights, scores excepted."""
    finest, coarsest = recipe.high_um_per_px
    scale = recipe.generator.scale
    return ModelSpec(
        name=recipe.name,
        generator=recipe.generator,
        stage=recipe.stage,
        trained_um_per_px=(finest * scale, coarsest * scale),
        licence=LICENCE,
        compressed_inputs=recipe.data.sees_jpeg,
        data=terms_of(data),
        recipe=recipe_as_dict(recipe),
        training={
            "patches": trained.patches,
            "seconds": round(trained.seconds),
            "perceptual_network": trained.perceptual_network,
            "device": device_text(),
        },
    )


def device_text() -> str:
    """What training runs on here, for a header."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def terms_of(data: Path) -> dict[str, str]:
    """Data set -> licence, from the columns of these names in DATA/manifest.csv if there is one."""
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
        raise RefusedError(f"{manifest}: needs the columns dataset and licence") from error
