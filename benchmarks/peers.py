"""Compares slidesr with other ways to run the same network on a slide, in one table.

Three peers (tile loop, MONAI, dask: see `pipelines`), each with the network as released and with
ours; then slidesr's network alone, and the whole command: read, network, pyramid, JPEG, OME-TIFF.
The peers read from and write to memory, so their file I/O is not counted.

All rows compute the same function of the same pixels. Before timing, their pixels are compared with
slidesr's, away from patch borders, where the peers truncate the halo; and the lossless output of
the whole command must equal that of the network alone. In one row the tile loop uses the full halo,
so that its pixels agree at patch borders too.

slidesr lets glibc keep freed memory for the whole process. This benefits the peers as well, except
in the first row, a tile loop in a separate process, like a script. A small image also benefits
them: patches at its edges need no halo. The table lists their overhead in a large slide too.

python benchmarks/peers.py [--side 768] [--rounds 5] [--patch 256] [--slide FILE] [--device cpu]
python benchmarks/peers.py --side 2048 --rounds 3 --only script    a large slide, one peer
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from machine import parser, record
from ours import Ours, opened
from pipelines import (
    Network,
    Scene,
    Script,
    as_ours,
    as_released,
    dask,
    monai,
    monai_overlap_px,
    tile_loop,
)
from rounds import Ratio, Round, alternating, markdown, undisturbed
from spans import Span, interior

from slidesr.geometry import Pixels
from slidesr.imaging.metrics import psnr_db
from slidesr.model.weights import default_model, find_model, read_model
from slidesr.nets.cost import convolution_ceiling, flops_per_px
from slidesr.nets.generator import GeneratorSpec

_SCALE = 4
_LEAST_DB = 40  # below this, a row computes a different function
_PEERS = {"tile loop": tile_loop, "MONAI": monai, "dask": dask}
_SCRIPT = "tile loop, as released, a script of its own"
_WITHOUT_SEAMS = "tile loop, our network, no seams"
_BASE, _ALONE, _WHOLE = "tile loop, as released", "slidesr, network alone", "slidesr, whole command"


@dataclass(frozen=True)
class Row:
    """A way to compute the output; `patches` are those of a peer along each axis."""

    halo_px: str
    work: Callable[[], object]
    patches: Sequence[Span] = ()
    pixels: Callable[[], Pixels] | None = None  # for rows that are compared with the network alone


@dataclass(frozen=True)
class Likeness:
    """Agreement of a row with slidesr, in the interior and where patches meet."""

    psnr_db: float
    largest: int
    largest_at_seams: int


@dataclass(frozen=True)
class Comparison:
    """The rows with their measurements, in undisturbed rounds only."""

    scene: Scene
    rows: dict[str, Row]
    alike: dict[str, Likeness]
    rounds: list[Round]
    summary: dict[str, Ratio]


def main() -> None:
    choices = _choices()
    comparison = _compared(choices)
    side, patch = len(comparison.scene.image), comparison.scene.patch_px
    print(f"x{_SCALE}, {side} x {side} source px, peers' patches of {patch} px\n")
    print(_table(comparison))
    loads = ", ".join(f"{each.load:.1f}" for each in comparison.rounds)
    print(f"\n{len(comparison.rounds)} of {choices.rounds} rounds kept, at a load of {loads}\n")
    print(markdown(["", "median (range)"], [*comparison.summary.items()]))
    record("peers", _plain(comparison, choices), choices)


def _choices() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--side", type=int, default=768, help="side in source pixels, rounded down to whole patches"
    )
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--patch", type=int, default=256, help="side of the peers' patches, px")
    arguments.add_argument(
        "--only", metavar="WORDS", default="", help="only peers whose name contains these words"
    )
    arguments.add_argument("--slide", type=Path, help="use its centre instead of a synthetic slide")
    arguments.add_argument(
        "--least-busy",
        type=float,
        help="drop rounds in which a row used fewer cores [3/4 of the threads; 0 on a GPU]",
    )
    return arguments.parse_args()


def _compared(choices: argparse.Namespace) -> Comparison:
    spec, trained = read_model(find_model(default_model(_SCALE)))
    window = spec.generator.window
    if choices.patch % (4 * window) or choices.side < 2 * choices.patch - window:
        raise SystemExit(f"--patch must be a multiple of {4 * window} px and fit twice into --side")
    stride = choices.patch - window  # so that dask's chunks with their halos are whole patches
    side = choices.patch + (choices.side - choices.patch) // stride * stride
    with opened(choices.slide, side, choices.device) as ours:
        engine = ours.job.model.engine
        batch = ours.job.model.batch_size
        scene = Scene(ours.image, _SCALE, window, choices.patch, engine.device, batch)
        forms = {
            "our network": as_ours(trained, engine),
            "as released": as_released(trained.to(engine.device), window),
        }
        rows = {
            name: row
            for name, row in _rows(ours, scene, forms).items()
            if choices.only in name or name in (_ALONE, _WHOLE)
        }
        alike = _alike(rows, ours)
        work = {name: row.work for name, row in rows.items()}
        rounds = [
            (each, convolution_ceiling(engine.device, engine.precision))
            for each in alternating(work, choices.rounds, engine.device)
        ]
    calm = undisturbed([each for each, _ in rounds], _least_busy(choices))
    flops = flops_per_px(spec.generator) * side**2
    summary = _summary(calm, [ceiling / flops for each, ceiling in rounds if each in calm])
    return Comparison(scene, rows, alike, calm, summary)


def _least_busy(choices: argparse.Namespace) -> float:
    if choices.least_busy is not None:
        return float(choices.least_busy)
    return 0.75 * torch.get_num_threads() if choices.device == "cpu" else 0.0


def _rows(ours: Ours, scene: Scene, forms: dict[str, Network]) -> dict[str, Row]:
    model = ours.job.model
    rows = {
        f"{peer}, {form}": _peer_row(peer, forms[form], scene)
        for form in ("as released", "our network")
        for peer in _PEERS
    }
    whole = replace(scene, overlapping_windows=_windows_without_seams(model.spec.generator))
    rows[_WITHOUT_SEAMS] = _peer_row("tile loop", forms["our network"], whole)
    loop = rows[_BASE]
    script = Row(loop.halo_px, Script(scene), loop.patches, loop.pixels)
    halo = f"{model.halo_px}, all of it"
    own = {_ALONE: Row(halo, ours.network_alone), _WHOLE: Row(halo, ours.whole_command)}
    return {_SCRIPT: script, **rows, **own}


def _peer_row(peer: str, network: Network, scene: Scene) -> Row:
    run = _PEERS[peer]
    is_monai = peer == "MONAI"
    halo = f"{monai_overlap_px(scene)}, blended" if is_monai else str(scene.overlap_px // 2)
    patches = scene.patches(monai_overlap_px(scene) if is_monai else scene.overlap_px)

    def work() -> Pixels:
        return run(network, scene)

    return Row(halo, work, patches, work)


def _alike(rows: dict[str, Row], ours: Ours) -> dict[str, Likeness]:
    """Compares each row with the network alone; raises SystemExit if the functions differ."""
    model, reference = ours.job.model, ours.network_alone()
    whole = ours.without_loss()
    if model.engine.device == "cpu" and not np.array_equal(whole, reference):
        raise SystemExit("the output of the whole command differs from that of the network alone")
    everywhere = np.ones(len(reference), bool)
    alike = {
        _ALONE: _likeness(ours.network_alone(), reference, everywhere, 0),
        _WHOLE: _likeness(whole, reference, everywhere, 0),
    }
    spec = model.spec.generator
    reach = _reach_px(spec)
    for name, row in rows.items():
        if row.pixels is None:
            continue
        output = row.pixels()
        inside = interior(row.patches, reach).repeat(_SCALE)
        ahead = spec.phase_px * _SCALE
        alike[name] = _likeness(
            output[ahead:, ahead:],
            reference[: len(output) - ahead, : len(output) - ahead],
            inside[ahead:],
            2 * model.halo_px * _SCALE,
        )
        if alike[name].psnr_db < _LEAST_DB:
            raise SystemExit(
                f"{name}: {alike[name].psnr_db:.1f} dB to slidesr: a different function, so ratios"
                " would be meaningless"
            )
    return alike


def _reach_px(spec: GeneratorSpec) -> int:
    """Distance from a patch border within which pixels depend on what lies beyond it."""
    return -(-spec.features_radius_px // spec.grid_px) * spec.grid_px + spec.tail_radius_px


def _windows_without_seams(spec: GeneratorSpec) -> int:
    return -(-2 * _reach_px(spec) // spec.grid_px)


def _likeness(
    output: Pixels, ours: Pixels, inside: npt.NDArray[np.bool_], edge_px: int
) -> Likeness:
    """Compares two images; `inside` applies to both axes, and image edges are not seams."""
    if not inside.any():
        raise SystemExit("patches have no interior: increase --patch")
    off = np.abs(output.astype(np.int16) - ours)
    within = slice(edge_px, len(ours) - edge_px)
    return Likeness(
        psnr_db(output[inside][:, inside], ours[inside][:, inside]),
        int(off[inside][:, inside].max()),
        int(off[within, within].max()),
    )


def _summary(calm: list[Round], ceilings: list[float]) -> dict[str, Ratio]:
    """The main results as ratios within rounds; `ceilings` are in jobs per second."""
    seconds = {name: [each.runs[name].seconds for each in calm] for name in calm[0].runs}
    times = "whole command, times as fast as:"
    ratios = {
        f"{times} {name}": Ratio.of(seconds[name], seconds[_WHOLE])
        for name in (_SCRIPT, _BASE, _WITHOUT_SEAMS)
        if name in seconds
    }
    of_ours = [seconds[name] for peer in _PEERS if (name := f"{peer}, our network") in seconds]
    if of_ours:
        best = [min(each) for each in zip(*of_ours, strict=True)]
        ratios[f"{times} best peer, our network"] = Ratio.of(best, seconds[_WHOLE])
    reached = [1 / each for each in seconds[_ALONE]]
    return ratios | {
        "whole command, share of the network alone": Ratio.of(seconds[_ALONE], seconds[_WHOLE]),
        "network alone, share of the convolution ceiling": Ratio.of(reached, ceilings),
    }


def _table(comparison: Comparison) -> str:
    header = [
        *(
            "row",
            "halo, px",
            "processed per px (large slide)",
            "Mpx/s",
            "times as fast",
            "cores busy",
            "page faults",
        ),
        *("PSNR to slidesr, dB", "largest difference", "at seams", "device memory, MB"),
    ]
    lines = [_line(name, comparison) for name in comparison.rows]
    shown = len(header) - (not comparison.scene.device.startswith("cuda"))
    return markdown(header[:shown], [line[:shown] for line in lines])


def _line(name: str, comparison: Comparison) -> list[str]:
    runs, alike = [each.runs[name] for each in comparison.rounds], comparison.alike[name]
    base = [
        each.runs[_BASE if _BASE in comparison.rows else _WHOLE].seconds
        for each in comparison.rounds
    ]
    megapixels = len(comparison.scene.image) ** 2 / 1e6
    return [
        name,
        comparison.rows[name].halo_px,
        _seen(comparison.rows[name].patches),
        f"{megapixels / min(run.seconds for run in runs):.4f}",
        str(Ratio.of(base, [run.seconds for run in runs])),
        f"{median(run.busy for run in runs):.2f}",
        f"{median(run.minor_faults for run in runs):.0f}",
        f"{alike.psnr_db:.1f}",
        str(alike.largest),
        str(alike.largest_at_seams),
        f"{max(run.device_peak_bytes for run in runs) / 1e6:.0f}",
    ]


def _seen(patches: Sequence[Span]) -> str:
    """Pixels processed per pixel kept: in this image, and in parentheses far from its edges."""
    if not patches:
        return "-"
    here = sum(patch.stop - patch.start for patch in patches) / patches[-1].stop
    first, second = patches[:2]
    return f"{here**2:.2f} ({((first.stop - first.start) / second.start) ** 2:.2f})"


def _plain(comparison: Comparison, choices: argparse.Namespace) -> dict[str, object]:
    """Converts the comparison to plain data for JSON, without the slide's name."""
    return {
        "side_px": len(comparison.scene.image),
        "patch_px": comparison.scene.patch_px,
        "scale": _SCALE,
        "slide": "real" if choices.slide else "synthetic",
        "rounds": choices.rounds,
        "load": [each.load for each in comparison.rounds],
        "summary": {name: asdict(ratio) for name, ratio in comparison.summary.items()},
        "rows": {
            name: {
                "halo_px": row.halo_px,
                **asdict(comparison.alike[name]),
                "runs": [asdict(each.runs[name]) for each in comparison.rounds],
            }
            for name, row in comparison.rows.items()
        },
    }


if __name__ == "__main__":
    main()
