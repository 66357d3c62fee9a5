"""From a finished run to a model file that explains itself."""

from __future__ import annotations

import csv
import hashlib
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slidesr.card import card
from slidesr.errors import RefusedError
from slidesr.model import ModelSpec, save_model
from slidesr.nets.generator import Generator
from slidesr.train.recipe import Recipe, recipe_as_dict

_LICENCE = "Apache-2.0 for the weights; the terms of the data are listed with it"


def described(recipe: Recipe, data: Path, *, patches: int, seconds: float) -> ModelSpec:
    """The header of a run's weights, scores excepted."""
    finest, coarsest = recipe.high_um_per_px
    scale = recipe.generator.scale
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return ModelSpec(
        name=recipe.name,
        generator=recipe.generator,
        stage="fidelity",
        trained_um_per_px=(finest * scale, coarsest * scale),
        licence=_LICENCE,
        compressed_inputs=recipe.data.jpeg_share > 0,
        data=_terms(data),
        recipe=recipe_as_dict(recipe),
        training={
            "patches": patches,
            "seconds": round(seconds),
            "device": gpu or f"{torch.get_num_threads()} CPU threads ({platform.machine()})",
        },
    )


def write_model(
    folder: Path, spec: ModelSpec, scores: dict[str, Any], generator: Generator
) -> Path:
    """Writes NAME.safetensors and its card NAME.md; the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec.name}.safetensors"
    spec = replace(spec, scores=scores)
    save_model(path, spec, generator)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".md").write_text(card(spec, digest))
    return path


def _terms(data: Path) -> dict[str, str]:
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
