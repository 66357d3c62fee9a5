"""The whole job on small slides, read back by libraries that did not write it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from support.slides import camelyon_style, subifd_ome, tissue

from slidesr.errors import RefusedError
from slidesr.geometry import Box
from slidesr.model.model import Model
from slidesr.model.weights import save_model
from slidesr.output.compression import Compression
from slidesr.output.format import Format
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import Progress, estimate, upscale
from slidesr.slide import open_slide

LOSSLESS = Format(Compression("lzw"))
REAL_SLIDES = Path(__file__).parents[3] / "shared/data/slides"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny x4 model on disk."""
    from support.models import tiny_generator

    spec, generator = tiny_generator(scale=4)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, spec, generator)
    return str(path)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    camelyon_style(path, tissue(700, 600, seed=3), mpp=0.5)
    return path


@pytest.fixture(scope="module")
def options(weights: str) -> Options:
    return Options(model=weights, tissue="all", device="cpu", precision="fp32")


def run(source: Path, output: Path, options: Options) -> Path:
    with prepared(source, output, options) as job:
        upscale(job)
    return output


def pixels(path: Path, level: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(tifffile.imread(path, series=0, level=level))


def test_a_camelyon_style_slide_becomes_a_slide(
    slide: Path, options: Options, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    with prepared(slide, tmp_path / "out.ome.tif", options) as job:
        summary = upscale(job, seen.append)
    with openslide.OpenSlide(tmp_path / "out.ome.tif") as made:
        assert made.dimensions == (2800, 2400)
        assert made.level_dimensions == ((2800, 2400), (1400, 1200), (700, 600), (350, 300))
        assert float(made.properties["openslide.mpp-x"]) == pytest.approx(0.125)
    assert summary.output_bytes == (tmp_path / "out.ome.tif").stat().st_size
    assert seen[-1].source_px == 700 * 600
    assert summary.tissue_px == 700 * 600
    assert list(tmp_path.iterdir()) == [tmp_path / "out.ome.tif"]


def test_the_output_is_the_network_of_the_input(
    slide: Path, options: Options, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    with prepared(slide, output, replace(options, format=LOSSLESS)) as job:
        upscale(job)
        assert isinstance(job.model, Model)
        tile = job.frame.size.box.snapped(job.model.window_px)
        whole = job.model.upscale(job.frame.read(tile.grown(job.model.halo_px))[None])[0]
        whole = whole[(job.frame.size.box * job.plan.scale).slices]
    assert np.array_equal(pixels(output), whole)


def test_a_crop_is_the_same_pixels(slide: Path, options: Options, tmp_path: Path) -> None:
    lossless = replace(options, format=LOSSLESS)
    whole = pixels(run(slide, tmp_path / "whole.tif", lossless))
    crop = Box(133, 71, 301, 207)
    part = pixels(run(slide, tmp_path / "part.tif", replace(lossless, crop=crop)))
    assert np.array_equal(part, whole[(crop * 4).slices])


def test_the_same_job_gives_the_same_bytes(slide: Path, options: Options, tmp_path: Path) -> None:
    few = replace(options, num_workers=1, crop=Box(0, 0, 200, 150))
    many = replace(few, num_workers=4)
    first = run(slide, tmp_path / "a.ome.tif", few).read_bytes()
    assert run(slide, tmp_path / "b.ome.tif", many).read_bytes() == first


def test_background_stays_out_of_the_network(slide: Path, options: Options, tmp_path: Path) -> None:
    mask = np.zeros((60, 70), np.uint8)
    mask[:30, :35] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = replace(options, tissue=str(tmp_path / "mask.png"))
    with prepared(slide, tmp_path / "out.ome.tif", masked) as job:
        assert 350 * 300 <= job.tissue_px <= 352 * 320
        assert job.tissue_px == upscale(job).tissue_px


def test_annotations_restrict_the_network(slide: Path, options: Options, tmp_path: Path) -> None:
    ring = [[64, 64], [192, 64], [192, 192], [64, 192], [64, 64]]
    square = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "roi.geojson").write_text(json.dumps(square | {"properties": {}}))
    chosen = replace(options, roi=tmp_path / "roi.geojson")
    with prepared(slide, tmp_path / "out.ome.tif", chosen) as job:
        assert 128 * 128 <= job.tissue_px <= 224 * 224
        assert job.plan.output.width == 2800  # annotations keep their place


def test_another_resolution_is_read(slide: Path, options: Options, tmp_path: Path) -> None:
    for choice in ({"level": 1}, {"mpp": 1.0}, {"magnification": 10.0}):
        with prepared(slide, tmp_path / "out.ome.tif", replace(options, **choice)) as job:
            assert job.frame.level == 1
            assert job.output_mpp is not None
            assert job.output_mpp.x == pytest.approx(0.25)


def test_facts_are_carried_over_and_nothing_else(options: Options, tmp_path: Path) -> None:
    source = tmp_path / "patient Jane Doe.ome.tif"
    subifd_ome(source, tissue(300, 200, seed=1), mpp=1.0)
    output = run(source, tmp_path / "out.ome.tif", options)
    with tifffile.TiffFile(output) as tiff:
        xml = tiff.ome_metadata or ""
    assert 'PhysicalSizeX="0.25"' in xml
    assert 'K="synthetic">true<' in xml
    assert 'K="scale">4<' in xml
    assert b"Jane" not in output.read_bytes()
    assert str(tmp_path).encode() not in output.read_bytes()


@pytest.mark.parametrize("layout", ["hybrid", "ome", "generic"])
def test_its_own_words_are_read_back(
    slide: Path, options: Options, layout: str, tmp_path: Path
) -> None:
    chosen = replace(options, crop=Box(0, 0, 96, 64), ensemble=True, format=Format(layout=layout))
    output = run(slide, tmp_path / "out.ome.tif", chosen)
    with open_slide(output) as made:
        assert {
            "synthetic": "true",
            "model": "tiny",
            "ensemble": "true",
            "tolerance": "2",
            "scale": "4",
        }.items() <= made.provenance.items()
        assert made.properties["tiff.Software"] == "slidesr"
    with open_slide(slide) as source:
        assert not source.provenance


def test_a_patch_without_pixel_size_gets_none(
    options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(tissue(100, 90, seed=2)).save(tmp_path / "patch.png")
    output = run(tmp_path / "patch.png", tmp_path / "out.ome.tif", options)
    assert "no pixel size" in caplog.text
    with openslide.OpenSlide(output) as made:
        assert "openslide.mpp-x" not in made.properties
    stated = replace(options, source_mpp=0.5, overwrite=True)
    with openslide.OpenSlide(run(tmp_path / "patch.png", output, stated)) as made:
        assert float(made.properties["openslide.mpp-x"]) == pytest.approx(0.125)


def test_a_run_stopped_before_its_first_checkpoint_leaves_nothing(
    slide: Path, options: Options, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with (
        prepared(slide, tmp_path / "out.ome.tif", options) as job,
        pytest.raises(KeyboardInterrupt),
    ):
        upscale(job, stop)
    assert list(tmp_path.iterdir()) == []


def test_the_old_output_stands_until_the_new_is_whole(
    slide: Path, options: Options, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    output.write_bytes(b"old")

    def look(progress: Progress) -> None:
        assert output.read_bytes() == b"old"

    with prepared(slide, output, replace(options, overwrite=True)) as job:
        upscale(job, look)
    assert output.stat().st_size > 1000


def test_an_estimate_is_near_the_truth(slide: Path, options: Options, tmp_path: Path) -> None:
    with prepared(slide, tmp_path / "out.ome.tif", options) as job:
        guess = estimate(job)
        assert list(tmp_path.iterdir()) == []
        summary = upscale(job)
    assert 0.5 < guess.output_bytes / summary.output_bytes < 2
    assert guess.seconds > 0


def test_weights_for_another_scale_are_refused(
    slide: Path, options: Options, tmp_path: Path
) -> None:
    with (
        pytest.raises(RefusedError, match="x4, not x8"),
        prepared(slide, tmp_path / "out.ome.tif", replace(options, scale=8)),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        ("CMU-1-Small-Region.svs", Box(2000, 2700, 400, 400)),  # its last row and column
        ("TCGA-CR-7395-01A-01-TS1.svs", Box(300, 300, 200, 200)),
        ("OS-1-detail.ome.tif", Box(0, 0, 200, 200)),
        ("camelyon_jpeg.dcm", Box(100, 100, 200, 200)),
    ],
)
def test_real_slides(name: str, crop: Box, options: Options, tmp_path: Path) -> None:
    source = REAL_SLIDES / name
    if not source.exists():
        pytest.skip("no real slides beside the checkout")
    lossless = replace(options, format=LOSSLESS, crop=crop)
    with prepared(source, tmp_path / "out.ome.tif", lossless) as job:
        upscale(job)
        tile = job.plan.region.snapped(job.model.window_px)
        whole = job.model.upscale(job.frame.read(tile.grown(job.model.halo_px))[None])[0]
        inside = job.plan.region.within(tile) * 4
    assert np.array_equal(pixels(tmp_path / "out.ome.tif"), whole[inside.slices])
