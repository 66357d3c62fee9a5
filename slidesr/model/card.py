"""The model card: the header of a weights file as Markdown, and writing both files."""

from __future__ import annotations

import json
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
from slidesr.model.stages import TrainingStage
from slidesr.model.weights import ModelSpec, read_spec, save_model, sha256_of
from slidesr.nets.generator import Generator

_SOURCES = {
    "WA-SRGAN": "Shahidi, IEEE Access 2021, doi 10.1109/ACCESS.2021.3057497",
    "A-SRGAN": "as Shahidi 2021 compares with: blocks of SRGAN, attention of SAGAN",
    "SRGAN": "Ledig et al. 2017, arXiv 1609.04802, with 8 blocks as in Shahidi 2021",
}

_INPUTS = {  # by degradation
    "bicubic": "antialiased bicubic reductions of scans",
    "scanner": "reductions of scans with the blur and the noise of a scanner",
    "levels": "the next pyramid level of the slides, as it is stored",
}


def card(spec: ModelSpec, sha256: str) -> str:
    """The card as Markdown, built from the header and the file's hash alone."""
    finest, coarsest = spec.trained_um_per_px
    data = "\n".join(f"- {name}: {terms}" for name, terms in sorted(spec.data.items()))
    return f"""# {spec.name}

{_network_text(spec)}

| | |
|---|---|
| sha256 | `{sha256}` |
| licence | {spec.licence} |
| trained on | {spec.patches:,} patches, {spec.seconds / 60:.0f} min, in {_runs_text(spec)} |
| input | H&E, RGB, {finest:g}-{coarsest:g} um per pixel |

**Not for diagnosis.** The output is synthetic: details are what the network finds likely, and it
can be wrong. Trained on {_inputs_text(spec)}. Strong noise or blur,
other stains, and other pixel sizes are outside what it has seen.

## Scores

Antialiased bicubic protocol, RGB, mean over images. For shipped weights these are the test images
of `docs/data`, on which nothing was trained. Made by
`slidesr benchmark DATA --scales {spec.generator.scale}`.{_protocol_text(spec)}

{_scores_text(spec)}

## Data

{data or "- not stated"}

## Training

{_training_text(spec)}
"""


def write_model(
    folder: Path, spec: ModelSpec, scores: dict[str, Any], generator: Generator
) -> Path:
    """Writes NAME.safetensors and its card NAME.md and returns the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec.name}.safetensors"
    spec = replace(spec, scores=scores)
    save_model(path, spec, generator)
    path.with_suffix(".md").write_text(card(read_spec(path), sha256_of(path)))
    return path


def _protocol_text(spec: ModelSpec) -> str:
    if spec.degradation != "scanner":
        return ""
    return """ Such input is sharper than a scanner's,
and these weights sharpen it too much. With `--degradation scanner` they are scored on what they
are made for."""


def _scores_text(spec: ModelSpec) -> str:
    """The table of the headline, with the judge that no loss of this model has used."""
    names = dict.fromkeys(
        name for methods in spec.scores.values() for metrics in methods.values() for name in metrics
    )
    judges = [key for key in dict.fromkeys(map(judge_of, names)) if key]
    headline = headline_judge(judges, spec.loss_networks)
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
    networks = " and ".join(spec.loss_networks)
    stage = f"{spec.stage} stage" + (f", perceptual loss by {networks}" if networks else "")
    return f"""{net.architecture} generator ({_SOURCES[net.architecture]}), x{net.scale},
{net.norm}-norm variant, {stage}; {net.channels} channels, {net.blocks} {net.block} blocks,
{attention}, output {skip}."""


def _inputs_text(spec: ModelSpec) -> str:
    data = spec.recipe.get("data", {})
    inputs = _INPUTS[spec.degradation]
    if spec.degradation == "levels":
        return inputs
    if not spec.compressed_inputs:
        return f"{inputs}; JPEG-compressed input is outside too: its 8 px blocks may show"
    share = f"{data.get('jpeg_share', 0):.0%} of them compressed by JPEG"
    if data.get("jpeg2000_share"):
        share += f" and {data['jpeg2000_share']:.0%} by JPEG 2000"
    return f"{inputs}, {share} as slides are"


def _runs_text(spec: ModelSpec) -> str:
    count = len(spec.stages)
    return f"{count} run{'' if count == 1 else 's'}"


def _training_text(spec: ModelSpec) -> str:
    """The runs as a table with their sum, and the last one's recipe."""
    if not spec.stages:
        return "- not stated"
    rows = "\n".join(map(_stage_row, spec.stages))
    ablated = f" It repeats `{spec.ablates}` without its critic." if spec.ablates else ""
    return f"""The runs that made these weights, each from the weights of the one before.{ablated}

| run | from | patches | time | device | weights (sha256) |
|---|---|---|---|---|---|
{rows}
| sum | | {spec.patches:,} | {spec.seconds / 60:.0f} min | | |

Recipe of {spec.stages[-1].name}; the header of the file holds that of every run:

```json
{json.dumps(spec.recipe, indent=2, sort_keys=True)}
```"""


def _stage_row(stage: TrainingStage) -> str:
    weights = f"`{stage.weights_sha256[:12]}`" if stage.weights_sha256 else "not kept"
    cells = (
        stage.name,
        stage.start or "random weights",
        f"{stage.patches:,}",
        f"{stage.seconds / 60:.0f} min",
        stage.device,
        weights,
    )
    return f"| {' | '.join(cells)} |"
