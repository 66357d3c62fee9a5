"""Selects the image regions shown in the report, worst cases as well as best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slidesr.benchmark.measures import Enlarged
from slidesr.benchmark.methods import BICUBIC, Method, leading
from slidesr.benchmark.report import Case
from slidesr.benchmark.results import Results
from slidesr.benchmark.suite import Comparison
from slidesr.geometry import Pixels

_SHOWN_PX = 192


def cases(comparison: Comparison, results: Results) -> list[Case]:
    """Picks, per scale, the images with the least, median and largest gain of the leading method.

    Gain is PSNR over bicubic in dB. The images are upscaled again, since outputs are not stored.
    """
    chosen = []
    for scale in comparison.options.scales:
        methods = comparison.methods(scale)
        scores = results.scores[scale]
        gains = np.subtract(scores[leading(methods).name]["psnr_db"], scores[BICUBIC]["psnr_db"])
        order = np.argsort(gains, kind="stable")
        ranks = {"worst": 0, "typical": len(order) // 2, "best": len(order) - 1}
        for why, rank in ranks.items():
            index = int(order[rank])
            enlarged = comparison.enlarged(scale, methods, comparison.pairs[index])
            psnr_db = {name: by_metric["psnr_db"][index] for name, by_metric in scores.items()}
            chosen.append(_case(scale, why, enlarged, methods, psnr_db))
    return chosen


def _case(
    scale: int, why: str, enlarged: Enlarged, methods: Sequence[Method], psnr_db: dict[str, float]
) -> Case:
    rows, columns = _highest_contrast(enlarged.high, scale)
    low = enlarged.low[
        rows.start // scale : rows.stop // scale, columns.start // scale : columns.stop // scale
    ]
    outputs = {
        method.name: image[rows, columns]
        for method, image in zip(methods, enlarged.made, strict=True)
    }
    return Case(
        scale, enlarged.subject.name, why, low, enlarged.high[rows, columns], outputs, psnr_db
    )


def _highest_contrast(high: Pixels, scale: int) -> tuple[slice, slice]:
    """The region of a coarse grid with the highest contrast, on whole low-resolution pixels."""
    sides = [min(_SHOWN_PX, length) // scale * scale for length in high.shape[:2]]
    starts = [
        sorted({int(at) // scale * scale for at in np.linspace(0, length - side, 5)})
        for length, side in zip(high.shape[:2], sides, strict=True)
    ]
    places = [
        (slice(row, row + sides[0]), slice(column, column + sides[1]))
        for row in starts[0]
        for column in starts[1]
    ]
    return max(places, key=lambda place: float(high[place].std()))
