"""The structure of all methods' outputs as Markdown tables."""

from __future__ import annotations

from slidesr.benchmark.results import (
    DIGITS,
    STRUCTURE_HEADINGS,
    Results,
    best,
)
from slidesr.benchmark.suite import means

_INTRO = """The output against the original, without a network as judge: 0 is as in the original,
less is missing and more is invented. 16-32 px to 2-4 px: power of detail of this size. Grid: a
pattern that repeats all over the image. Step modulation: blocks and spots. H, E: relative change of
stain density on tissue."""


def structure_md(results: Results) -> str:
    """Formats one table per scale, the value nearest to 0 of each column in bold; may be empty."""
    by_scale = {
        scale: means([row for row in results.summary if row.scale == scale])
        for scale in results.scores
    }
    tables = {scale: _table(by_data) for scale, by_data in by_scale.items()}
    parts = [f"### Structure, x{scale}\n\n{table}" for scale, table in tables.items() if table]
    return "\n\n".join(["## Structure", _INTRO, *parts]) if parts else ""


def _table(by_data: dict[str, dict[str, dict[str, float]]]) -> str:
    metrics = [
        name
        for name in STRUCTURE_HEADINGS
        if all(name in found for methods in by_data.values() for found in methods.values())
    ]
    if not metrics:
        return ""
    lines = [
        f"| data | method | {' | '.join(STRUCTURE_HEADINGS[name] for name in metrics)} |",
        f"|---|---|{'---|' * len(metrics)}",
    ]
    for data, methods in by_data.items():
        nearest = {
            name: best(name, [found[name] for found in methods.values()]) for name in metrics
        }
        for method, found in methods.items():
            cells = [_cell(name, found[name], nearest[name]) for name in metrics]
            lines.append(f"| {data} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, value: float, nearest: float) -> str:
    text = f"{value:+z.{DIGITS[name]}f}"
    return f"**{text}**" if value == nearest else text
