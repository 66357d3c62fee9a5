"""Measures the cluster driver's CPU time per block, and its memory with 10,000 queued blocks.

The scheduler and two workers run in separate processes, with a tiny network.

python benchmarks/driver_cost.py [--side 8192] [--queued 10000]
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from hand_started import hand_started
from material import write_slide
from PIL import Image

from slidesr.model.weights import ModelSpec, save_model
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.pipeline.dask_cluster import cluster as clusters
from slidesr.pipeline.dask_cluster.cluster import connected
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import upscale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192, help="side of the tissue, source pixels")
    parser.add_argument("--queued", type=int, default=10_000)
    choices = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_tiny(folder / "tiny.safetensors")
        with hand_started(folder, 2) as address, connected(address) as cluster:
            cluster.client.wait_for_workers(2)
            for side in (2048, choices.side):  # the first warms up
                tissue = write_slide(folder / "tissue.tif", side, side)
                ms, blocks, _ = _run(folder, tissue, "all", cluster)
            megapixels = choices.side**2 / 1e6 / blocks
            print(
                f"{ms:.2f} ms of CPU per block of tissue, {ms / megapixels:.2f} ms per source Mpx"
                f" ({blocks} blocks)",
                flush=True,
            )
            mask = folder / "none.png"
            Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
            for count, row in ((1_600, 16), (choices.queued, 1)):
                clusters._AHEAD, clusters._MOST_GLASS = choices.queued, row
                side = 1024 * math.ceil(count**0.5)
                glass = write_slide(folder / "glass.tif", side, 256)
                ms, blocks, grown_mib = _run(folder, glass, str(mask), cluster)
                print(
                    f"{ms:.2f} ms of CPU per block of glass, {row} per task;"
                    f" {grown_mib:.0f} MiB more with {blocks // row} tasks queued",
                    flush=True,
                )


def _save_tiny(path: Path) -> None:
    spec = GeneratorSpec(4, window=8, bicubic_skip=True, channels=8, blocks=1)
    save_model(path, ModelSpec("tiny", spec, "fidelity", (0.5, 1.0), "none"), Generator(spec))


def _run(
    folder: Path, slide: Path, tissue: str, cluster: clusters.Cluster
) -> tuple[float, int, float]:
    """Returns the driver's CPU time per block (ms), the blocks, and its memory growth (MiB)."""
    options = Options(
        model=str(folder / "tiny.safetensors"), tissue=tissue, device="cpu", overwrite=True
    )
    with prepared(slide, folder / "out.ome.tif", options) as job:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        upscale(job, executor=cluster.make)
        seconds = time.process_time() - started
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        return 1e3 * seconds / job.plan.block_count, job.plan.block_count, grown_kib / 1024


if __name__ == "__main__":
    main()
