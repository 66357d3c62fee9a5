"""Upscales a slide from a script: python upscale_from_python.py [SLIDE] [OUTPUT].

Without a slide it upscales part of a sample, and states the pixel size, which the file lacks.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import slidesr
from slidesr.pipeline.sample import write_sample_slide


def show(now: slidesr.Progress) -> None:
    print(f"\r{now.share:4.0%}", end="", flush=True)


def main(arguments: list[str]) -> None:
    # perception=0 selects the weights that invent least; a second run replaces the first result.
    options = slidesr.Options(scale=2, perception=0.0, overwrite=True)
    if arguments:
        source = Path(arguments[0])
    else:
        source = write_sample_slide(Path("sample.tif"))
        options = replace(options, source_mpp=0.5, crop=slidesr.Box(192, 320, 384, 256))
    output = Path(arguments[1]) if len(arguments) > 1 else Path(f"{source.stem}.x2.ome.tif")

    try:
        cost = slidesr.estimate(source, output, options=options)
        print(f"{source}: {cost.tissue_share:.0%} tissue, about {cost.seconds:.0f} s")
        done = slidesr.upscale(source, output, options=options, on_progress=show)
    except slidesr.RefusedError as error:  # a bad slide or option; nothing was written
        sys.exit(f"refused: {error}")
    print(f"\n{done.output}: {done.size}, {done.mpp} um per pixel, by {done.model}")


if __name__ == "__main__":
    main(sys.argv[1:])
