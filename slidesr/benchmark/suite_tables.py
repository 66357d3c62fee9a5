"""Tables of the paper's comparison: networks by scale, each over its seeds, next to bicubic."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slidesr.benchmark.judges.downstream import HIGH
from slidesr.benchmark.methods import BICUBIC
from slidesr.benchmark.results import Results
from slidesr.benchmark.suite import means
from slidesr.model.score_table import INDEPENDENT, Scores

MODEL = "model"
_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "psnr_db": ("PSNR (dB)", "{:.2f}".format),
    "mse": ("MSE", "{:.1f}".format),
    "ssim": ("SSIM", "{:.4f}".format),
    "ms_ssim": ("MS-SSIM", "{:.4f}".format),
    "qilv": ("QILV", "{:.4f}".format),
    f"distance_{INDEPENDENT}": ("perceptual distance", "{:.3f}".format),
    f"fid_{INDEPENDENT}": ("FID", "{:.0f}".format),
    "accuracy": ("accuracy", "{:.3f}".format),
    "auc": ("AUC", "{:.3f}".format),
}


@dataclass(frozen=True)
class SuiteScores:
    """What was measured of one run; a score is keyed by data set, method and metric."""

    network: str  # as in tables
    scale: int
    batch: int
    stage: str  # "fidelity" or "gan"
    seed: int
    patches: int
    seconds: int  # of training
    scores: Scores

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def scores_of(results: Results) -> Scores:
    """Means over images, with nuclei and the classifier's figures, of a comparison at one scale."""
    table = means(results.summary)
    of_all_sizes = [row for row in results.nuclei if row.part == "all"]
    for row in (*results.classifier, *of_all_sizes):
        if row.value is not None:
            table.setdefault(row.data, {}).setdefault(row.method, {})[row.metric] = row.value
    return table


def suite_tables(runs: Sequence[SuiteScores], order: Sequence[str]) -> str:
    """Formats a table in Markdown per data set, scale and stage; networks in this order.

    A cell is the mean over seeds, with the standard deviation where there are several.
    """
    parts = []
    for scale in sorted({run.scale for run in runs}):
        for data in sorted({data for run in runs for data in run.scores}):
            for stage in ("fidelity", "gan"):
                chosen = [run for run in runs if (run.scale, run.stage) == (scale, stage)]
                if chosen:
                    parts.append(_table(f"x{scale}, {data}, {stage} stage", data, chosen, order))
    return "\n\n".join(parts) + "\n"


def _table(caption: str, data: str, runs: Sequence[SuiteScores], order: Sequence[str]) -> str:
    own = runs[0].scores[data]
    metrics = [name for name in _COLUMNS if name in own[MODEL]]
    heads = ["network", "batch", "seeds", "patches", *(_COLUMNS[name][0] for name in metrics)]
    lines = [heads, ["---"] * len(heads)]
    for reference in (HIGH, BICUBIC):
        if any(name in own.get(reference, {}) for name in metrics):
            cells = [_cell(name, [own[reference]]) for name in metrics]
            lines.append([reference, "", "", "", *cells])
    for network in order:
        for batch in sorted({run.batch for run in runs if run.network == network}):
            same = [run for run in runs if (run.network, run.batch) == (network, batch)]
            cells = [_cell(name, [run.scores[data][MODEL] for run in same]) for name in metrics]
            patches = f"{same[0].patches:,}"
            lines.append([network, str(batch), str(len(same)), patches, *cells])
    return f"{caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(metric: str, found: Sequence[Mapping[str, float]]) -> str:
    values = [each[metric] for each in found if metric in each]
    if not values:
        return ""
    text = _COLUMNS[metric][1]
    spread = f" ±{text(statistics.stdev(values))}" if len(values) > 1 else ""
    return text(statistics.fmean(values)) + spread
