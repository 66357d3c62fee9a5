"""The Python API: the same as the commands, as functions, loaded when first used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import slidesr
from slidesr.pipeline.sample import write_sample_slide

U8 = NDArray[np.uint8]
SMALL = slidesr.Options(scale=2, crop=slidesr.Box(300, 300, 128, 96))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_slide(tmp_path_factory.mktemp("slide") / "sample.tif")


def test_importing_slidesr_loads_nothing_heavy() -> None:
    code = "import slidesr, sys; slidesr.Options; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "slidesr.pipeline.options" in modules.split()
    assert not {"torch", "openslide", "tifffile", "zarr", "dask"} & set(modules.split())


def test_every_public_name_is_there() -> None:
    assert all(getattr(slidesr, name) is not None for name in slidesr.__all__)
    assert set(slidesr.__all__) <= set(dir(slidesr))
    with pytest.raises(AttributeError, match="nothing"):
        _ = slidesr.nothing


def test_a_slide_is_upscaled_and_read_by_another_library(slide: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    output = tmp_path / "out.ome.tif"
    summary = slidesr.upscale(
        slide, output, options=SMALL, on_progress=lambda now: shares.append(now.share)
    )
    assert (summary.output, summary.size, summary.exit_code) == (output, slidesr.Size(256, 192), 0)
    assert tifffile.imread(output).shape == (192, 256, 3)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)


def test_an_existing_output_is_kept_unless_it_may_be_replaced(slide: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ome.tif"
    output.write_bytes(b"mine")
    with pytest.raises(slidesr.RefusedError, match="exists already"):
        slidesr.upscale(slide, output, options=SMALL)
    assert output.read_bytes() == b"mine"


def test_an_existing_folder_gets_the_default_name(slide: Path, tmp_path: Path) -> None:
    summary = slidesr.upscale(str(slide), str(tmp_path), options=SMALL)
    assert summary.output == tmp_path / "sample.x2.ome.tif"


def test_what_kills_a_reader_is_refused_from_python_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(200))
    abort = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr("slidesr.runtime.sandbox._command", lambda path: abort)
    with pytest.raises(slidesr.RefusedError, match="SIGABRT"):
        slidesr.upscale(tmp_path / "a.tif", tmp_path / "out.ome.tif")


def test_many_slides_have_an_outcome_each(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.tif").write_bytes(slide.read_bytes()[:5000])
    seen: list[str] = []
    outcomes = slidesr.upscale_many(
        [slide, tmp_path / "torn.tif"],
        tmp_path / "out",
        options=SMALL,
        on_outcome=lambda outcome: seen.append(outcome.status),
    )
    assert [outcome.status for outcome in outcomes] == ["done", "refused"] == seen
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["count"] == {"done": 1, "refused": 1}
    again = slidesr.upscale_many([slide], tmp_path / "out", options=SMALL)
    assert [outcome.status for outcome in again] == ["there"]


def test_an_estimate_writes_nothing(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    estimate = slidesr.estimate(slide, options=SMALL)
    assert estimate.output == Path("sample.x2.ome.tif")
    assert estimate.size == slidesr.Size(256, 192)
    assert min(estimate.seconds, estimate.output_bytes, estimate.memory_bytes) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_profile_says_where_the_time_went(slide: Path, tmp_path: Path) -> None:
    summary, profile = slidesr.profile(slide, tmp_path / "out.ome.tif", options=SMALL)
    assert {"read", "network", "encode"} <= set(profile.stage_s)
    assert 0 < profile.network_share <= 1
    assert 0 < profile.flops < 2 * profile.ceiling_flops
    assert json.loads(profile.trace.read_text())["traceEvents"]
    assert summary.output.exists()


def test_a_model_enlarges_arrays(section: U8) -> None:
    model = slidesr.load_model("wa-srgan-x2-fidelity", device="cpu", precision="fp32")
    patch = section[:40, :56]
    enlarged = model.enlarge(patch)
    assert enlarged.shape == (80, 112, 3)
    reduced = enlarged.reshape(40, 2, 56, 2, 3).mean((1, 3))
    assert np.abs(reduced - patch).mean() < 4
    assert "wa-srgan-x2-fidelity" in [spec.name for spec in slidesr.list_models()]


def test_tissue_is_found_on_a_path_or_an_open_slide(slide: Path) -> None:
    with slidesr.open_slide(slide) as opened:
        tissue = slidesr.find_tissue(opened)
        assert opened.size == slidesr.Size(1280, 1024)
    assert (tissue.mask == slidesr.find_tissue(slide).mask).all()
    assert 0.2 < tissue.share < 0.9


def test_a_slide_is_converted(slide: Path, tmp_path: Path) -> None:
    lossless = slidesr.Format(slidesr.Compression("deflate"))
    output = slidesr.convert(slide, tmp_path / "copy.ome.tif", format=lossless)
    with slidesr.open_slide(slide) as before, slidesr.open_slide(output) as after:
        box = slidesr.Box(200, 300, 64, 64)
        assert (before.frame().read(box) == after.frame().read(box)).all()


def test_a_choice_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="scale 3 is not one of 2, 4, 8, 16"):
        slidesr.Options(scale=3)
    with pytest.raises(ValueError, match="on_bad_tile"):
        slidesr.Options(on_bad_tile="skip")


def test_a_batch_size_without_a_gpu_is_refused(slide: Path, tmp_path: Path) -> None:
    options = slidesr.Options(device="cpu", batch_size=64)
    with pytest.raises(slidesr.RefusedError, match="--batch-size is for GPUs"):
        slidesr.upscale(slide, tmp_path / "out.ome.tif", options=options)
