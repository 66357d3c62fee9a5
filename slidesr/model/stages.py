"""The runs that made a model's weights, first to last, as its header keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MOST_STAGES = 32
_MOST_CHARACTERS = 200
_MOST = 1 << 53  # patches or seconds: what JSON readers hold exactly
_KINDS: dict[str, type] = {
    **dict.fromkeys(("name", "start", "weights_sha256", "device"), str),
    **dict.fromkeys(("patches", "seconds"), int),
    "recipe": dict,
    "loss_networks": list,
}


@dataclass(frozen=True)
class TrainingStage:
    """One training run; its weights are those that the next stage starts from."""

    name: str
    recipe: dict[str, Any]
    start: str  # name of the stage before; empty for random weights
    weights_sha256: str  # of the tensors alone, since headers change; empty if not known
    patches: int
    seconds: int
    device: str
    loss_networks: tuple[str, ...] = ()  # pretrained networks that took part in its losses


def stages_from_json(tables: Any) -> tuple[TrainingStage, ...]:
    """Builds the stages of a header; raises ValueError, TypeError or KeyError if one is invalid.

    Each must start from the one before it, and the first from random weights.
    """
    if not isinstance(tables, list) or len(tables) > _MOST_STAGES:
        raise TypeError(f"stages is not a list of at most {_MOST_STAGES} runs")
    stages = tuple(map(_stage, tables))
    for start, stage in zip(("", *(stage.name for stage in stages)), stages, strict=False):
        if stage.start != start:
            raise ValueError(f"{stage.name!r} starts from {stage.start!r}, not from {start!r}")
    return stages


def _stage(table: Any) -> TrainingStage:
    if not isinstance(table, dict) or set(table) != set(_KINDS):
        raise TypeError("a stage is not a table of the known fields")
    for key, kind in _KINDS.items():
        if type(table[key]) is not kind:
            raise TypeError(f"{key} of a stage is not of type {kind.__name__}")
    stage = TrainingStage(**(table | {"loss_networks": tuple(table["loss_networks"])}))
    _check(stage)
    return stage


def _check(stage: TrainingStage) -> None:
    _check_texts([stage.name, stage.start, stage.device, *stage.loss_networks])
    if not all(any(map(str.isalnum, network)) for network in stage.loss_networks):
        raise ValueError("a loss network of a stage has no name")
    if not stage.name:
        raise ValueError("a stage has no name")
    digest = stage.weights_sha256
    if digest and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise ValueError("weights_sha256 of a stage is not a SHA-256")
    if not (0 <= stage.patches < _MOST and 0 <= stage.seconds < _MOST):
        raise ValueError("patches or seconds of a stage are out of range")


def _check_texts(texts: Sequence[Any]) -> None:
    if len(texts) > _MOST_STAGES:
        raise ValueError("a stage names too many networks")
    for text in texts:
        if not isinstance(text, str) or len(text) > _MOST_CHARACTERS or not text.isprintable():
            raise ValueError("a text of a stage is no short line")
