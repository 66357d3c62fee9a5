"""`slidesr info` and `slidesr models`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from slidesr.cli import options as common
from slidesr.cli.show import as_json, bytes_text, facts, inert
from slidesr.imaging.window import WindowChoice
from slidesr.output.compression import Compression
from slidesr.runtime.sandbox import sandboxed


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@common.window
@common.json_output
def info(source: Path, *, window: WindowChoice, json_: bool) -> None:
    """Show what a slide is, which image of the file is read, and what `upscale` would give."""
    with sandboxed(source):
        from slidesr.slide import open_slide

    with open_slide(source, window=window) as slide:
        share = slide.find_tissue().share
        description: dict[str, Any] = {
            "file": source.name,
            "vendor": slide.vendor,
            "image": asdict(slide.choice),
            "window": str(slide.window) if slide.window else None,
            "width": slide.size.width,
            "height": slide.size.height,
            "levels": [
                {"width": level.size.width, "height": level.size.height} for level in slide.levels
            ],
            "mpp": slide.mpp.mean if slide.mpp else None,
            "magnification": slide.magnification,
            "icc_profile_bytes": len(slide.icc_profile or b""),
            "tissue_share": share,
        }
        description["upscaled"] = [
            {
                "scale": scale,
                "width": slide.size.width * scale,
                "height": slide.size.height * scale,
                "mpp": slide.mpp.mean / scale if slide.mpp else None,
                "about_bytes": int(slide.size.area * scale**2 * share * Compression().bytes_per_px),
            }
            for scale in (2, 4, 8, 16)
        ]
    if json_:
        as_json(description)
    else:
        _show(description)


def _image(
    image: str, why: str, conversions: Sequence[str], left_out: Sequence[str]
) -> dict[str, str]:
    """The choice of the image as rows; a plain file with one image has only the first."""
    rows = {
        "image": ": ".join(filter(None, (image, why))),
        "read as": ", ".join(conversions),
        "left out": ", ".join(left_out),
    }
    return {name: text for name, text in rows.items() if text}


def _show(description: dict[str, Any]) -> None:
    levels = ", ".join(f"{level['width']} x {level['height']}" for level in description["levels"])
    facts(
        description["file"],
        {
            "vendor": description["vendor"],
            **_image(**description["image"]),
            **({"window": description["window"]} if description["window"] else {}),
            "levels": levels,
            "pixel": f"{description['mpp']:.4g} um" if description["mpp"] else "size unknown",
            "magnification": f"{description['magnification']:g}x"
            if description["magnification"]
            else "unknown",
            "colour": "ICC profile" if description["icc_profile_bytes"] else "no ICC profile",
            "tissue": f"{description['tissue_share']:.1%}",
        },
    )
    table = Table("scale", "size", "pixel", "about", box=None, title="upscaled")
    for row in description["upscaled"]:
        table.add_row(
            f"x{row['scale']}",
            f"{row['width']} x {row['height']}",
            f"{row['mpp']:.4g} um" if row["mpp"] else "unknown",
            bytes_text(row["about_bytes"]),
        )
    Console().print(table)


@click.command()
@common.json_output
def models(*, json_: bool) -> None:
    """List the shipped models."""
    from slidesr.model.weights import list_models

    found = list_models()
    if json_:
        as_json([{"path": path, **asdict(spec)} for path, spec in found])
        return
    table = Table("name", "scale", "stage", "trained on um/px", "size", box=None)
    for path, spec in found:
        finest, coarsest = spec.trained_um_per_px
        table.add_row(
            inert(spec.name),
            f"x{spec.generator.scale}",
            inert(spec.stage),
            f"{finest:g}-{coarsest:g}",
            bytes_text(path.stat().st_size),
        )
    Console().print(table)
