"""Draws whether a critic acts: PSNR, the critic's estimate and the pull of each loss, by patches.

    slidesr train paper-as-described --patches 8000 --validate-every 500 -o A ...
    slidesr train paper-as-published --patches 8000 --validate-every 500 -o B ...
    python benchmarks/adversarial_curves.py FILE.svg A B

One column a run, read from its TensorBoard log. Above, PSNR over bicubic on the validation images;
in the middle, the critic's estimate of the Wasserstein distance between real and made images;
below, the norm of the gradient of each loss at the generator's output, weights included.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

_GAINS = {"gain_db/camelyon16_tumor073": "Camelyon16", "gain_db/mitos2012": "MITOS 2012"}
_LEVELS = 40  # points of a curve, each a mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("svg", type=Path)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    chosen = parser.parse_args()
    mpl.rcParams |= {"svg.hashsalt": "slidesr", "svg.fonttype": "none", "font.size": 9}
    figure, panels = pyplot.subplots(
        *(3, len(chosen.runs)), figsize=(5 * len(chosen.runs), 8), sharex=True, sharey="row"
    )
    for column, run in zip(panels.reshape(3, -1).T, chosen.runs, strict=True):
        _draw_run(column, run)
    figure.tight_layout()
    figure.savefig(chosen.svg, metadata={"Date": None})
    print(chosen.svg)


def _draw_run(column: Iterable[Axes], run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    gain, critic, pull = column
    for tag, title in _GAINS.items():
        gain.plot(*zip(*scalars[tag], strict=True), ".-", label=title)
    gain.set(title=run.name, ylabel="PSNR over bicubic, dB")
    estimate = [(step, -value) for step, value in scalars.get("loss/critic", [])]
    critic.plot(*_smoothed(estimate), label="mean score, real less made")
    critic.set(ylabel="critic's estimate")
    for tag, points in scalars.items():
        if tag.startswith("gradient/"):
            pull.plot(*_smoothed(points), label=tag.removeprefix("gradient/"))
    pull.set(ylabel="norm of gradient", xlabel="patches", yscale="log")
    for panel in (gain, critic, pull):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)


def _smoothed(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Means of neighbouring points, at most `_LEVELS` of them."""
    several = max(1, len(points) // _LEVELS)
    groups = [points[start : start + several] for start in range(0, len(points), several)]
    means = [[sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups]
    return [mean[0] for mean in means], [mean[1] for mean in means]


if __name__ == "__main__":
    main()
