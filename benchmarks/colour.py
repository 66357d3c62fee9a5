"""Measures colour fidelity: CIEDE2000 between a slide and its box-averaged output.

    python benchmarks/colour.py SLIDE|FOLDER ... [--scale 2 4 8] [--crop x,y,w,h] [--compression C]

Measures the whole command on tissue only, including JPEG compression of the output. The images of
a folder are taken as full resolution: they are downsampled by the scale and tiled into a slide with
JPEG tiles, as from a scanner of lower resolution. Prints for each scale, without consistency, with
the default tolerance, and with a tolerance of 0:

    pixel   mean difference between a source pixel and the output pixels that cover it
    box     the same for boxes of 8 x 8 source pixels, which average out detail
    p99     99th percentile over the boxes
    shift   difference between the two mean colours, that is, a colour cast

Differences below 1 are invisible. `pixel` also includes noise that the network removes, so judge
colour by the other figures.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from slidesr.geometry import Box, Mpp, Pixels
from slidesr.imaging.resample import bicubic_down
from slidesr.output.compression import COMPRESSIONS, Compression
from slidesr.output.copy import write_plain
from slidesr.output.format import Format
from slidesr.output.metadata import Metadata
from slidesr.pipeline.job import Job
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import upscale
from slidesr.slide import open_slide

_F64 = npt.NDArray[np.float64]
_BOX_PX = 8
_CELL_PX = 32
_UM_OF_FOLDERS = 0.25
_TOLERANCES = {"--no-consistent": None, "": 2.0, "--tolerance 0": 0.0}


@dataclass(frozen=True)
class Difference:
    """CIEDE2000 differences, as described above."""

    pixel: float
    box: float
    p99: float
    shift: float


def colour_difference(
    low: Pixels, high: Pixels, scale: int, tissue: npt.NDArray[np.bool_]
) -> Difference:
    """Compares u8[h, w, 3] with u8[h*s, w*s, 3] where `tissue`, bool[h, w], is true."""
    reduced = _means(high, scale)
    pixel = _ciede2000(low.astype(np.float64), reduced)[tissue]
    whole = _means(tissue[..., None], _BOX_PX)[..., 0] == 1
    box = _ciede2000(_means(low, _BOX_PX), _means(reduced, _BOX_PX))[whole]
    shift = _ciede2000(*(each[tissue].mean(axis=0)[None, None] for each in (low, reduced)))
    return Difference(
        float(pixel.mean()), float(box.mean()), float(np.percentile(box, 99)), float(shift.item())
    )


def measured(source: Path, options: Options) -> Difference:
    """Upscales the slide into a temporary folder and compares the result with it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.ome.tif"
        with prepared(source, output, options) as job:
            upscale(job)
            low, tissue = job.frame.read(job.plan.region), _tissue_px(job)
        with open_slide(output) as slide:
            high = slide.frame().read(slide.size.box)
    return colour_difference(low, high, options.scale, tissue)


def slide_of(images: list[Path], scale: int, path: Path) -> Path:
    """Writes a slide that tiles the images, downsampled by the scale."""
    tiles = [_downsampled(np.asarray(Image.open(each).convert("RGB")), scale) for each in images]
    side = min(min(tile.shape[:2]) for tile in tiles)
    columns = int(len(tiles) ** 0.5)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    whole = [row for row in rows if len(row) == columns]
    sheet = np.vstack([np.hstack([tile[:side, :side] for tile in row]) for row in whole])
    facts = Metadata(Mpp(_UM_OF_FOLDERS * scale, _UM_OF_FOLDERS * scale), None, None)
    height, width = sheet.shape[:2]

    def pixels(box: Box) -> Pixels:
        part: Pixels = sheet[box.clipped(Box(0, 0, width, height)).slices]
        return part

    return write_plain(path, Box(0, 0, width, height), pixels, facts)


def _downsampled(image: Pixels, scale: int) -> Pixels:
    height, width = (side // scale * scale for side in image.shape[:2])
    return bicubic_down(image[:height, :width], scale)


def _tissue_px(job: Job) -> npt.NDArray[np.bool_]:
    region = job.plan.region
    cells = job.tissue.cells(region.snapped(_CELL_PX), job.frame.size, _CELL_PX)
    pixels = cells.repeat(_CELL_PX, 0).repeat(_CELL_PX, 1)
    return pixels[region.within(region.snapped(_CELL_PX)).slices]


def _ciede2000(first: _F64, second: _F64) -> _F64:
    pair = (rgb2lab(image / 255) for image in (first, second))
    difference: _F64 = deltaE_ciede2000(*pair)  # type: ignore[no-untyped-call]
    return difference


def _means(image: npt.NDArray[np.generic], side: int) -> _F64:
    height, width = (length // side for length in image.shape[:2])
    boxes = image[: height * side, : width * side].reshape(height, side, width, side, -1)
    means: _F64 = boxes.astype(np.float64).mean(axis=(1, 3))
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("material", nargs="+", type=Path)
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--crop", help="of slides, in level-0 pixels")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="jpeg")
    chosen = parser.parse_args()
    print(f"{'material':30} scale               pixel    box    p99  shift")
    with tempfile.TemporaryDirectory() as folder:
        for material in chosen.material:
            for scale in chosen.scale:
                source, crop = material, None
                if material.is_dir():
                    images = sorted(each for each in material.rglob("*") if each.is_file())
                    source = slide_of(images, scale, Path(folder) / f"{material.name}.{scale}.tif")
                elif chosen.crop:
                    crop = Box(*map(int, chosen.crop.split(",")))
                for how, tolerance in _TOLERANCES.items():
                    compression = Compression(chosen.compression)
                    options = Options(
                        scale, tolerance=tolerance, crop=crop, format=Format(compression)
                    )
                    found = measured(source, options)
                    name = f"{material.name:30} x{scale}"
                    figures = (found.pixel, found.box, found.p99, found.shift)
                    print(name, f"{how:15}", *(f"{each:6.2f}" for each in figures), flush=True)


if __name__ == "__main__":
    main()
