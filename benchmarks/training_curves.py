"""Draws docs/training/curves.svg: the gain in PSNR over bicubic on the validation images.

    python benchmarks/training_curves.py [RUN ...]

The curves are in docs/training/curves.csv. Those of the given runs, folders of `slidesr train`, are
read from their TensorBoard logs and replace the rows of the same name and device there.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from figures import logged, new_figure, save_figure

from slidesr.model.weights import ModelSpec
from slidesr.train.checkpoint import averaged_weights

_CURVES = Path(__file__).parents[1] / "docs/training/curves.csv"
_COLUMNS = ("name", "patch_px", "patches", "seconds", "device", "validation")
_DATA = {"camelyon16_db": "camelyon16_tumor073", "mitos_db": "mitos2012"}
_TITLES = {"camelyon16_db": "Camelyon16", "mitos_db": "MITOS 2012"}

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    rows = _known()
    for run in parser.parse_args().runs:
        made = list(_rows_of(run))
        kinds = {(row["name"], row["device"]) for row in made}
        rows = [row for row in rows if (row["name"], row["device"]) not in kinds] + made
    with _CURVES.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*_COLUMNS, *_DATA), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    _draw(rows, _CURVES.with_suffix(".svg"))


def _known() -> list[Row]:
    with _CURVES.open(newline="") as file:
        return list(csv.DictReader(file))


def _rows_of(run: Path) -> Iterator[Row]:
    """The validations of a run, one row each."""
    stage = ModelSpec.from_json(averaged_weights(run / "checkpoint.pt")[0]).stages[-1]
    curves = logged(run)
    for patches, seconds in sorted(curves["seconds"].items()):
        if patches <= stage.patches:
            known = (
                *(stage.name, stage.recipe["data"]["patch_px"], patches, round(seconds)),
                *(stage.device, "docs/data/split.csv"),
            )
            gains = {
                key: f"{curves[f'gain_db/{data}'][patches]:+.3f}" for key, data in _DATA.items()
            }
            yield dict(zip(_COLUMNS, map(str, known), strict=True)) | gains


def _draw(rows: list[Row], path: Path) -> None:
    """One panel a data set; the runs of a scale have one colour, those on a GPU are dashed."""
    figure, (panels,) = new_figure(1, len(_DATA), (9, 4))
    for panel, (key, title) in zip(panels, _TITLES.items(), strict=True):
        for (name, device), curve in groupby(rows, lambda row: (row["name"], row["device"])):
            points = list(curve)
            seen = [int(row["patches"]) * int(row["patch_px"]) ** 2 / 1e6 for row in points]
            scale = name.split("-x")[1].split("-")[0]
            colour = {"2": "tab:blue", "4": "tab:orange", "8": "tab:green", "16": "tab:red"}[scale]
            style = "--" if "NVIDIA" in device else "-"
            gains = [float(row[key]) for row in points]
            panel.plot(seen, gains, style, color=colour, marker=".", label=name)
        panel.set(title=title, xscale="log", xlabel="high-resolution megapixels seen")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("PSNR over bicubic, dB")
    panels[-1].legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
