"""Draws whether a critic acts: PSNR, the critic's estimate and the pull of each loss, by patches.

    slidesr train paper-as-described --patches 8000 --validate-every 500 -o A ...
    slidesr train paper-as-published --patches 8000 --validate-every 500 -o B ...
    python benchmarks/adversarial_curves.py FILE.svg A B

One column a run, read from its TensorBoard log. Above, PSNR over bicubic on the validation images;
in the middle, the critic's estimate of the Wasserstein distance between real and made images;
below, the norm of the gradient of each weighted loss at the generator's output, before `balanced`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from figures import logged, new_figure, save_figure
from matplotlib.axes import Axes

_GAINS = {"gain_db/camelyon16_tumor073": "Camelyon16", "gain_db/mitos2012": "MITOS 2012"}
_POINTS = 40  # of a curve at most, each a mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("svg", type=Path)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    chosen = parser.parse_args()
    columns = len(chosen.runs)
    figure, panels = new_figure(3, columns, (5 * columns, 8), sharex=True, sharey="row")
    for column, run in zip(panels.T, chosen.runs, strict=True):
        _draw_run(column, run)
    save_figure(figure, chosen.svg)


def _draw_run(column: Iterable[Axes], run: Path) -> None:
    curves = logged(run)
    gain, critic, pull = column
    for name, title in _GAINS.items():
        gain.plot(*zip(*sorted(curves[name].items()), strict=True), ".-", label=title)
    gain.set(title=run.name, ylabel="PSNR over bicubic, dB")
    estimate = {patches: -value for patches, value in curves.get("loss/critic", {}).items()}
    critic.plot(*_smoothed(estimate), label="mean score, real less made")
    critic.set(ylabel="critic's estimate")
    for name, curve in curves.items():
        if name.startswith("gradient/"):
            pull.plot(*_smoothed(curve), label=name.removeprefix("gradient/"))
    pull.set(ylabel="norm of gradient", xlabel="patches", yscale="log")
    for panel in (gain, critic, pull):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)


def _smoothed(curve: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Means of neighbouring points."""
    points = sorted(curve.items())
    several = max(1, -(-len(points) // _POINTS))
    groups = [points[start : start + several] for start in range(0, len(points), several)]
    means = [[sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups]
    return [mean[0] for mean in means], [mean[1] for mean in means]


if __name__ == "__main__":
    main()
