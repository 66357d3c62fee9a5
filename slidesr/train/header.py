"""The header stored with the weights of a finished training run."""

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


def header_for(recipe: Recipe, data: Path, trained: Trained) -> ModelSpec:
    """Builds the header for a run's weights; the scores are added later.

    Of a `start` given as a file only the name is kept, so the header holds no path of the machine.
    """
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
        recipe=recipe_as_dict(recipe) | {"start": _weights_name(recipe.start)},
        training={
            "patches": trained.patches,
            "seconds": round(trained.seconds),
            "perceptual_network": trained.perceptual_network,
            "device": device_text(),
        },
    )


def device_text() -> str:
    """Names the device that training runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def terms_of(data: Path) -> dict[str, str]:
    """Reads data set -> licence from DATA/manifest.csv; empty if there is no such file.

    Raises RefusedError if the columns `dataset` and `licence` are missing or incomplete.
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
        raise RefusedError(f"{manifest}: needs the columns dataset and licence") from error


def _weights_name(start: str) -> str:
    """
    >>> _weights_name("/home/me/runs/wa-srgan-x4.safetensors"), _weights_name("wa-srgan-x4")
    ('wa-srgan-x4', 'wa-srgan-x4')
    """
    return Path(start).name.removesuffix(".safetensors")
