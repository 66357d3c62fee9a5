"""Measures what becomes of weights that are changed without training: PSNR over bicubic, in dB.

    python benchmarks/weight_variants.py DATA MODEL [--attention SHARE ...] [--window PX ...]
        [--mean FILE ...] [--then FILE]

DATA are validation images. MODEL, a shipped name or a file, is scored as it is, with its attention
scaled to each SHARE, with attention windows of other sides, as the mean of its weights and those of
the files, and followed by another network, whose scale multiplies its own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from slidesr.model.weights import find_model, read_model
from slidesr.nets.generator import Generator
from slidesr.train.initial_weights import initial_generator
from slidesr.train.validation import Validation


class Cascade(nn.Module):
    """One network after another, with grey levels in between."""

    def __init__(self, first: Generator, second: Generator) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.second((self.first(x) * 255).round().clamp(0, 255) / 255)
        return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--attention", type=float, nargs="*", default=[], metavar="SHARE")
    parser.add_argument("--window", type=int, nargs="*", default=[], metavar="PX")
    parser.add_argument("--mean", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--then", metavar="FILE")
    choices = parser.parse_args()
    model = _generator(choices.model)
    variants: dict[str, nn.Module] = {"as it is": model}
    for share in choices.attention:
        variants[f"attention times {share:g}"] = _with_attention(choices.model, share)
    for side in choices.window:
        spec = replace(model.spec, window=side)
        variants[f"windows of {side} px"] = initial_generator(spec, choices.model)
    if choices.mean:
        variants["mean of weights"] = _mean([choices.model, *choices.mean])
    validation = Validation(choices.data, model.spec)
    for name, variant in variants.items():
        _show(name, variant, validation)
    if choices.then:
        both = Cascade(model, _generator(choices.then))
        spec = replace(model.spec, scale=model.spec.scale * both.second.spec.scale)
        _show("cascade", both, Validation(choices.data, spec))


def _generator(name: str) -> Generator:
    return read_model(find_model(name))[1]


@torch.no_grad()
def _with_attention(name: str, share: float) -> Generator:
    generator = _generator(name)
    generator.attention.get_parameter("gamma").mul_(share)
    return generator


def _mean(names: list[str]) -> Generator:
    first, *others = map(_generator, names)
    states = [generator.state_dict() for generator in (first, *others)]
    first.load_state_dict(
        {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    )
    return first


def _show(name: str, network: nn.Module, validation: Validation) -> None:
    scores, bicubic = validation.scores(network), validation.bicubic
    gains = (
        f"{data} {of['psnr_db'] - bicubic[data]['psnr_db']:+.3f}" for data, of in scores.items()
    )
    print(f"{name:24} {', '.join(gains)}", flush=True)


if __name__ == "__main__":
    main()
