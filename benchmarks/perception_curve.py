"""Draws what a GAN stage trades: distance against PSNR, and the power of fine detail.

    slidesr benchmark DATA/test --scales 4 --precision fp32 -o OUT --model wa-srgan-x4-fidelity \\
        --model wa-srgan-x4@0.25 --model wa-srgan-x4@0.5 --model wa-srgan-x4@0.75 \\
        --model wa-srgan-x4
    python benchmarks/perception_curve.py OUT wa-srgan-x4 FILE.svg [OTHER ...]

One column a data set. Above, the curve goes from the fidelity weights to the GAN weights as
`--perception` does; OTHER models of OUT are single points. Below, the power of detail against the
original's, by the size of the detail.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from figures import new_figure, save_figure
from matplotlib.axes import Axes

from slidesr.benchmark.results import Results
from slidesr.benchmark.suite import means

_TITLES = {
    "camelyon16_tumor073": "Camelyon16",
    "mitos2012": "MITOS 2012",
    "tcga_glioma": "TCGA glioma",
}
_BANDS = {  # metric: detail of so many pixels
    "spectrum_16_px_db": "16-32",
    "spectrum_8_px_db": "8-16",
    "spectrum_4_px_db": "4-8",
    "spectrum_2_px_db": "2-4",
}
_DISTANCE = "distance_lite2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", type=Path, metavar="OUT")
    parser.add_argument("model")
    parser.add_argument("svg", type=Path)
    parser.add_argument("others", nargs="*", metavar="OTHER")
    chosen = parser.parse_args()
    scores = means(Results.read(chosen.benchmark / "results.json").summary)
    figure, panels = new_figure(2, len(_TITLES), (10, 6))
    for column, (data, title) in enumerate(_TITLES.items()):
        of_data = scores[data]
        _draw_curve(panels[0, column], of_data, chosen.model, chosen.others)
        methods = ["bicubic", f"{chosen.model}-fidelity", *chosen.others, chosen.model]
        _draw_spectrum(panels[1, column], {method: of_data[method] for method in methods})
        panels[0, column].set_title(title)
    panels[0, 0].set_ylabel("perceptual distance (EfficientNet-Lite2)")
    panels[1, 0].set_ylabel("power against the original's, dB")
    for row in panels:
        row[-1].legend(fontsize=7)
    save_figure(figure, chosen.svg)


def _draw_curve(
    panel: Axes, scores: dict[str, dict[str, float]], model: str, others: list[str]
) -> None:
    shares = {0.0: f"{model}-fidelity", 1.0: model}
    label = f"{model}, perception "
    shares |= {
        float(method.removeprefix(label)): method for method in scores if method.startswith(label)
    }
    points = [(share, *_place(scores[method])) for share, method in sorted(shares.items())]
    places = [place for _, *place in points]
    panel.plot(*zip(*places, strict=True), "o-", color="tab:orange", label="--perception")
    for share, x, y in points:
        panel.annotate(f"{share:g}", (x, y), textcoords="offset points", xytext=(5, 3), fontsize=7)
    for method in others:
        panel.plot(*_place(scores[method]), "x", color="tab:green", label=method)
    panel.margins(0.15)
    panel.set_xlabel("PSNR, dB")
    panel.grid(alpha=0.3)


def _place(scores: dict[str, float]) -> tuple[float, float]:
    return scores["psnr_db"], scores[_DISTANCE]


def _draw_spectrum(panel: Axes, scores: dict[str, dict[str, float]]) -> None:
    panel.axhline(0, color="black", linewidth=0.8)
    for method, of in scores.items():
        panel.plot(list(_BANDS.values()), [of[band] for band in _BANDS], ".-", label=method)
    panel.set_xlabel("size of detail, px")
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    main()
