"""The model card: the header of a weights file as Markdown, and writing both files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slidesr.model.score_table import (
    headline_judge,
    headline_metrics,
    headline_note,
    judge_of,
    score_table,
)
from slidesr.model.weights import ModelSpec, save_model, sha256_of
from slidesr.nets.generator import Generator

_SOURCES = {
    "WA-SRGAN": "Shahidi, IEEE Access 2021, doi 10.1109/ACCESS.2021.3057497",
    "A-SRGAN": "as Shahidi 2021 compares with: blocks of SRGAN, attention of SAGAN",
    "SRGAN": "Ledig et al. 2017, arXiv 1609.04802, with 8 blocks as in Shahidi 2021",
}


def card(spec: ModelSpec, sha256: str) -> str:
    """The card as Markdown, built from the header and the file's hash alone."""
    training, jpeg = spec.training, _compression_text(spec)
    finest, coarsest = spec.trained_um_per_px
    data = "\n".join(f"- {name}: {terms}" for name, terms in sorted(spec.data.items()))
    return f"""# {spec.name}

{_network_text(spec)}

| | |
|---|---|
| sha256 | `{sha256}` |
| licence | {spec.licence} |
| trained on | {training.get("patches", 0):,} patches, {training.get("seconds", 0) / 60:.0f} min, \
{training.get("device", "unknown device")} |
| input | H&E, RGB, {finest:g}-{coarsest:g} um per pixel |

**Not for diagnosis.** The output is synthetic: details are what the network finds likely, and it
can be wrong. Trained on antialiased bicubic reductions of scans{jpeg}. Strong noise or blur,
other stains, and other pixel sizes are outside what it has seen.

## Scores

Antialiased bicubic protocol, RGB, mean over images. Slides of the validation set are not in the
training set. Made by `slidesr benchmark DATA --scales {spec.generator.scale}`.

{_scores_text(spec)}

## Data

{data or "- not stated"}

## Recipe

```json
{_recipe_text(spec.recipe)}
```
"""


def write_model(
    folder: Path, spec: ModelSpec, scores: dict[str, Any], generator: Generator
) -> Path:
    """Writes NAME.safetensors and its card NAME.md and returns the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec.name}.safetensors"
    spec = replace(spec, scores=scores)
    save_model(path, spec, generator)
    path.with_suffix(".md").write_text(card(spec, sha256_of(path)))
    return path


def _scores_text(spec: ModelSpec) -> str:
    """The table of the headline, with the judge that no loss of this model has used."""
    network = spec.training.get("perceptual_network", "")
    names = dict.fromkeys(
        name for methods in spec.scores.values() for metrics in methods.values() for name in metrics
    )
    judges = [key for key in dict.fromkeys(map(judge_of, names)) if key]
    headline = headline_judge(judges, [network] if network else [])
    table = score_table(spec.scores, headline_metrics(names, headline), headline, {})
    return f"{table}\n\n{headline_note(headline)}"


def _network_text(spec: ModelSpec) -> str:
    net = spec.generator
    skip = "added to a bicubic enlargement of the input" if net.bicubic_skip else "as in the paper"
    attention = (
        f"self-attention in windows of {net.window} low-resolution pixels"
        if net.window
        else "no attention"
    )
    network = spec.training.get("perceptual_network", "")
    stage = f"{spec.stage} stage" + (f", perceptual loss by {network}" if network else "")
    return f"""{net.architecture} generator ({_SOURCES[net.architecture]}), x{net.scale},
{net.norm}-norm variant, {stage}; {net.channels} channels, {net.blocks} {net.block} blocks,
{attention}, output {skip}."""


def _compression_text(spec: ModelSpec) -> str:
    if not spec.compressed_inputs:
        return "; JPEG-compressed input is outside too: its 8 px blocks may show"
    share = spec.recipe.get("data", {}).get("jpeg_share", 0)
    return f", {share:.0%} of them compressed by JPEG as slides are"


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, indent=2, sort_keys=True)
