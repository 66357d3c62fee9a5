"""`slidesr patches`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidesr.cli import options as common
from slidesr.cli.show import as_json, console, facts, progress_bar, stoppable, time_text
from slidesr.errors import SlidesrError
from slidesr.patches.options import SPLITS, PatchOptions

if TYPE_CHECKING:
    from slidesr.patches.make import PatchProgress, PatchSummary
    from slidesr.patches.sources import Material

_DEFAULT = PatchOptions()


class _SharesType(click.ParamType[tuple[float, ...]]):
    name = "train,valid,test"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(map(float, value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is not three numbers {self.name}", param, ctx)


@click.command()
@click.argument("slides", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the patches; a stopped run resumes there.",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="Folder of NAME.xml (ASAP), NAME.geojson or NAME.json (QuPath), or one of them gzipped,"
    " with the lesions of NAME.  [default: beside it]",
)
@click.option(
    "--lesion",
    "lesions",
    multiple=True,
    help="A group (ASAP) or class (QuPath; its first name is enough) that is lesion; repeatable."
    "  [default: all that is drawn, but _2, exclusion, normal, benign, ignore]",
)
@click.option(
    "--unannotated",
    type=click.Choice(["unlabelled", "normal"]),
    default="unlabelled",
    show_default=True,
    help="Label of slides without annotations.",
)
@click.option("--level", type=click.IntRange(0), help="Level to cut from.  [default: 0]")
@click.option("--mpp", type=float, help="Resolution to cut at, in um per pixel.")
@click.option("--magnification", type=float, help="Magnification to cut at, such as 20.")
@click.option("--source-mpp", type=float, help="um per pixel of level 0, if the file lacks it.")
@common.window
@click.option(
    "--size",
    "size_px",
    type=click.IntRange(16),
    default=_DEFAULT.size_px,
    show_default=True,
    help="Side of a patch in pixels.",
)
@click.option(
    "--pairs",
    type=click.IntRange(2),
    help="Also cut the same places from a level this many times coarser, as true pairs.",
)
@click.option(
    "--per-slide",
    type=click.IntRange(1),
    default=_DEFAULT.per_slide,
    show_default=True,
    help="Most patches per slide; half of them tumour where it has both labels.",
)
@click.option(
    "--split",
    type=_SharesType(),
    default=",".join(map(str, _DEFAULT.split)),
    show_default=True,
    help="Shares of the slides for training, validation and test.",
)
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True, help="Random seed.")
@click.option(
    "--min-tissue",
    type=click.FloatRange(0, 1),
    default=_DEFAULT.min_tissue,
    show_default=True,
    help="Least tissue share of a patch.",
)
@click.option(
    "--max-blur",
    type=click.FloatRange(0, 1),
    default=_DEFAULT.max_blur,
    show_default=True,
    help="Most blur of a patch; 0 is sharp, 1 keeps all patches.",
)
@click.option("--dataset", default=_DEFAULT.dataset, show_default=True, help="For the manifest.")
@click.option("--licence", default=_DEFAULT.licence, show_default=True, help="For the manifest.")
@click.option(
    "--num-workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Threads that read slides.",
)
@common.json_output
def patches(
    slides: tuple[Path, ...],
    output: Path,
    annotations: Path | None,
    unannotated: str,
    *,
    num_workers: int,
    json_: bool,
    **choices: Any,
) -> None:
    """Cut training patches from SLIDES, which are files or folders of them.

    A patch is "tumor" if its centre lies in a lesion, and "normal" if it is well away from all.
    Whole slides go to train, valid or test, each of which is a folder with a manifest.csv:
    `slidesr train RECIPE --data OUTPUT/train --valid OUTPUT/valid`. Slides of one patient may
    come into different splits.
    """
    with console.status("loading"):
        from slidesr.patches.sources import find_material

    label = "" if unannotated == "unlabelled" else unannotated
    options = PatchOptions(unannotated=label, **choices)
    material = find_material(slides, annotations)
    summary = _run(material, output, options, num_workers)
    if json_:
        as_json(summary)
    else:
        _show(summary)
    if summary.failed:
        raise SlidesrError(
            f"{len(summary.failed)} of {len(material)} slides failed: {', '.join(summary.failed)}"
        )


def _run(
    material: list[Material], output: Path, options: PatchOptions, num_workers: int
) -> PatchSummary:
    from slidesr.patches.make import make_patches

    total = len(material) * options.per_slide
    with progress_bar(output.name, total) as bar:

        def report(now: PatchProgress) -> None:
            bar.update(
                bar.task_ids[0],
                completed=now.slides * options.per_slide + now.patches,
                note=f"slide {min(now.slides + 1, len(material))} of {len(material)},"
                f" {now.patches} patches",
            )

        with stoppable():
            return make_patches(material, output, options, workers=num_workers, report=report)


def _show(summary: PatchSummary) -> None:
    rows: dict[str, object] = {"folder": summary.folder}
    for split in SPLITS:
        counts = summary.patches[split]
        labels = ", ".join(f"{count:,} {label or 'unlabelled'}" for label, count in counts.items())
        rows[split] = labels or "none"
    facts("", rows | {"time": time_text(summary.seconds)})
