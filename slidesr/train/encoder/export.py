"""Writes a trained encoder and its card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slidesr.model.weights import EncoderHeader, save_encoder, sha256_of
from slidesr.train.encoder.scores import EncoderScores
from slidesr.train.encoder.training import EncoderRecipe, TrainedEncoder
from slidesr.train.header import LICENCE, device_text, terms_of

_KINDS = {
    "blur": "Gaussian blur, sigma {} px",
    "shrink": "bicubic down and up by {}",
    "noise": "Gaussian noise, sigma {} grey levels",
    "jpeg": "JPEG 4:2:0, quality {}",
}


def write_encoder(
    folder: Path, recipe: EncoderRecipe, data: Path, trained: TrainedEncoder, scores: EncoderScores
) -> Path:
    """Writes NAME.safetensors and the card NAME.md; returns the path of the weights."""
    header = EncoderHeader(
        name=recipe.name,
        encoder=recipe.encoder,
        licence=LICENCE,
        data=terms_of(data),
        recipe=asdict(recipe),
        training={
            "patches": trained.patches,
            "seconds": round(trained.seconds),
            "device": device_text(),
        },
        scores=asdict(scores),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{header.name}.safetensors"
    save_encoder(path, header, trained.encoder)
    path.with_suffix(".md").write_text(encoder_card(header, sha256_of(path)))
    return path


def encoder_card(header: EncoderHeader, sha256: str) -> str:
    """Formats the card from the header and the file's hash."""
    training, scores = header.training, header.scores
    channels = ", ".join(str(count) for count in header.encoder.channels)
    data = "\n".join(f"- {name}: {terms}" for name, terms in sorted(header.data.items()))
    return f"""# {header.name}

A perceptual network for H&E: stages of two 3x3 convolutions with {channels} channels,
each at half the resolution of the one before. It gives a distance between images in the form of
LPIPS, and an embedding for Frechet distances. It makes no images.

| | |
|---|---|
| sha256 | `{sha256}` |
| licence | {header.licence} |
| trained on | {training["patches"]:,} patches, {training["seconds"] / 60:.0f} min, \
{training["device"]} |

**Not for diagnosis.** Trained without labels, to tell two views of a place from other places and
from blurred, shrunk, compressed or noisy copies (SimCLR, arXiv 2002.05709, with hard negatives).
Its distance is no LPIPS and its Frechet distance no FID: compare neither with published figures.

## Scores

On the validation images, whose slides are not in the training set. Of the views,
{scores["retrieval"]:.0%} have their partner as nearest among one view of each image, and
{scores["sharper"]:.0%} are nearer to their partner than to its degraded copy.
A patch and itself one pixel aside are {scores["shift_distance"]:.3f} apart.

| degradation | distance |
|---|---|
{_table(scores["distance"])}

## Data

{data or "- not stated"}

## Recipe

```json
{json.dumps(header.recipe, indent=2, sort_keys=True)}
```
"""


def _table(distance: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"| {_KINDS[kind].format(strength)} | {value:.3f} |"
        for kind, by_strength in sorted(distance.items())
        for strength, value in sorted(by_strength.items(), key=lambda row: float(row[0]))
    )
