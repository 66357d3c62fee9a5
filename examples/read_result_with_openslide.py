"""Reads an upscaled slide with OpenSlide alone: python read_result_with_openslide.py [FILE].

The output needs no slidesr to be used. Writes the middle of the slide as region.png.
"""

from __future__ import annotations

import sys

import openslide

_SIDE_PX = 512


def main(path: str) -> None:
    with openslide.OpenSlide(path) as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            print(f"level {level}: {width} x {height}, 1/{slide.level_downsamples[level]:g}")
        print("um per pixel:", slide.properties.get(openslide.PROPERTY_NAME_MPP_X, "unknown"))
        width, height = slide.dimensions
        corner = (max(0, (width - _SIDE_PX) // 2), max(0, (height - _SIDE_PX) // 2))
        region = slide.read_region(corner, 0, (_SIDE_PX, _SIDE_PX))
    region.convert("RGB").save("region.png")
    print("region.png: the middle of the slide")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample.x2.ome.tif")
