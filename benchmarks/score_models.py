"""Scores every shipped model and writes what it found: headers, cards, models/README.md.

    python benchmarks/score_models.py VALID

A card shows its model beside bicubic, back-projection and the fidelity weights it comes from; the
README shows all models of a scale. Only the scores in a header change, never a weight.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from slidesr.benchmark.suite import score_folder
from slidesr.card import score_table
from slidesr.model import Engine, load_model
from slidesr.train.finish import write_model
from slidesr.weights import list_models, models_folder, read_model

_LEARNS_NOTHING = ("bicubic", "bicubic + back-projection")
_INTRO = """# Shipped weights

Each file is a safetensors with everything about it in its header; the card beside it says the same
in words. `slidesr models` lists them. Scores: antialiased bicubic protocol, RGB, mean over the
images of slides that no model was trained on; distance and FID are those of the histology encoder,
less is better. Made by `python benchmarks/score_models.py VALID`.
"""

Scores = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("valid", type=Path)
    parser.add_argument("--scale", type=int, nargs="*", default=[2, 4, 8, 16])
    chosen = parser.parse_args()
    sections = {scale: _scored(chosen.valid, scale) for scale in chosen.scale}
    text = _INTRO + "".join(
        f"\n## x{scale}\n\n{score_table(scores)}\n" for scale, scores in sorted(sections.items())
    )
    (models_folder() / "README.md").write_text(text)


def _scored(valid: Path, scale: int) -> Scores:
    specs = [spec for _, spec in list_models() if spec.generator.scale == scale]
    models = [load_model(spec.name, Engine.choose("cpu")) for spec in specs]
    scores = score_folder(valid, scale, models, _say)
    for spec in specs:
        shown = (*_LEARNS_NOTHING, f"{spec.name}-fidelity", spec.name)
        own = {
            data: {name: by_method[name] for name in sorted(shown) if name in by_method}
            for data, by_method in scores.items()
        }
        _, generator = read_model(models_folder() / f"{spec.name}.safetensors")
        write_model(models_folder(), replace(spec, scores=own), own, generator)
    return scores


def _say(done: int, total: int) -> None:
    print(f"\r{done} of {total}", end="" if done < total else "\n", file=sys.stderr)


if __name__ == "__main__":
    main()
