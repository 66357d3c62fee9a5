"""OME-Zarr as input: the same pixels for every box, in any axes; what is hostile is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slides import tissue
from test_ome_tiff import METADATA, MPP, Sheet, stained
from test_ome_zarr import Store
from test_painter import tiny_generator

from slidesr.cli import run
from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Mpp
from slidesr.slide import open_slide
from slidesr.slide._stamp import stamp_of
from slidesr.weights import save_model

U8 = NDArray[np.uint8]
IMAGE = stained(401, 333)


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "a.ome.zarr"
    return Store(Sheet(IMAGE), request.param).write(path)


def test_it_tells_what_was_written(store: Path) -> None:
    with open_slide(store) as slide:
        assert slide.vendor == "ome-zarr"
        assert slide.size == Box(0, 0, 401, 333).size
        assert [level.size for level in slide.levels] == list(Sheet(IMAGE).plan.levels)
        assert slide.mpp == MPP
        assert slide.magnification == METADATA.magnification
        assert slide.icc_profile == METADATA.icc_profile
        assert slide.provenance == METADATA.provenance


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_box_shows_the_same_pixels(store: Path, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(-40, 400)), data.draw(st.integers(-40, 332))
    box = Box(x, y, data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130)))
    mirrored = np.pad(IMAGE, ((200, 200), (200, 200), (0, 0)), mode="symmetric")
    with open_slide(store) as slide:
        assert np.array_equal(slide.frame().read(box), mirrored[box.moved(200, 200).slices])


def test_many_threads_read(store: Path) -> None:
    boxes = [Box(x, y, 90, 70) for x in range(0, 300, 30) for y in range(0, 250, 50)]
    with open_slide(store) as slide, ThreadPoolExecutor(8) as pool:
        for box, pixels in zip(boxes, pool.map(slide.frame().read, boxes), strict=True):
            assert np.array_equal(pixels, IMAGE[box.slices])


@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx", "xcy"])
def test_axes_come_in_any_order(axes: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    pixels = IMAGE.transpose(["yxc".index(name) for name in axes if name in "yxc"])
    for at, name in enumerate(axes):
        pixels = pixels if name in "yxc" else np.expand_dims(pixels, at)
    group.create_array("s0", data=pixels, chunks=tuple(min(side, 100) for side in pixels.shape))
    told: Any = [{"name": name, **({"unit": "nanometer"} if name in "xy" else {})} for name in axes]
    scale = [500.0 if name == "x" else 250.0 if name == "y" else 1.0 for name in axes]
    datasets = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    multiscales: Any = [{"version": "0.4", "axes": told, "datasets": datasets}]
    group.attrs["multiscales"] = multiscales
    with open_slide(path) as slide:
        assert slide.mpp == Mpp(0.5, 0.25)
        assert np.array_equal(slide.frame().read(Box(50, 60, 200, 100)), IMAGE[60:160, 50:250])


def test_a_zip_of_a_store_and_a_url_will_do(store: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "a.ome.zarr.zip"
    shutil.make_archive(str(zipped.with_suffix("")), "zip", store)
    remote = Path(f"file://{store}")  # by fsspec, as s3:// and https:// are
    for path in (zipped, remote):
        with open_slide(path) as slide:
            assert np.array_equal(slide.frame().read(Box(9, 8, 70, 60)), IMAGE[8:68, 9:79])


def test_the_stamp_tells_a_change(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.zarr"
    shutil.copytree(store, copy)
    before = stamp_of(copy)
    assert before[0] == sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
    assert stamp_of(copy) == before
    victim = next(path for path in sorted(copy.rglob("*")) if path.is_file())
    victim.write_bytes(victim.read_bytes() + b" ")
    assert stamp_of(copy) != before
    shutil.rmtree(copy)
    with pytest.raises(SlidesrError, match="is gone"):
        stamp_of(copy)


def test_it_is_upscaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Store(Sheet(tissue(200, 150)), "0.4").write(Path("in.ome.zarr"))
    save_model(Path("tiny.safetensors"), *tiny_generator(scale=4))
    options = ["--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]
    assert run(["upscale", *options, "in.ome.zarr"]) == 0
    assert run(["upscale", *options, "in.ome.zarr", "-o", "out.ome.zarr"]) == 0
    with open_slide(Path("in.x4.ome.tif")) as first, open_slide(Path("out.ome.zarr")) as second:
        assert first.size == second.size == Box(0, 0, 800, 600).size
        assert first.mpp == second.mpp


# What is hostile or broken


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    """Changes the group's attributes on disk."""
    file = path / ".zattrs" if (path / ".zattrs").exists() else path / "zarr.json"
    document = json.loads(file.read_text())
    attributes = document if file.name == ".zattrs" else document["attributes"]
    how(attributes.get("ome", attributes))
    file.write_text(json.dumps(document))


def first(attributes: dict[str, Any]) -> dict[str, Any]:
    multiscale: dict[str, Any] = attributes["multiscales"][0]
    return multiscale


def transforms(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = first(attributes)["datasets"][0]["coordinateTransformations"]
    return found


@pytest.mark.parametrize(
    "how",
    [
        lambda a: a.pop("multiscales"),
        lambda a: a.update(multiscales=[]),
        lambda a: a.update(multiscales="x" * 1000),
        lambda a: first(a).update(axes=[{"name": "y"}, {"name": "x"}]),
        lambda a: first(a).update(axes=None),
        lambda a: first(a).update(datasets=[]),
        lambda a: first(a)["datasets"][0].update(path="../../../etc"),
        lambda a: first(a)["datasets"][0].update(path="/etc"),
        lambda a: first(a)["datasets"][0].update(path="9"),
        lambda a: first(a)["datasets"][0].update(path=7),
        lambda a: first(a)["datasets"].reverse(),
        lambda a: transforms(a)[0].update(scale="big"),
    ],
)
def test_hostile_attributes_are_refused_in_one_line(
    store: Path, how: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    copy = tmp_path / "a.zarr"
    shutil.copytree(store, copy)
    change(copy, how)
    with pytest.raises(RefusedError, match=r"a\.zarr: not a slide") as error:
        open_slide(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e300])
def test_a_pixel_size_that_cannot_be_is_absent(store: Path, scale: float, tmp_path: Path) -> None:
    copy = tmp_path / "a.zarr"
    shutil.copytree(store, copy)
    change(
        copy,
        lambda a: first(a)["datasets"][0]["coordinateTransformations"][0].update(
            scale=[1, scale, 1]
        ),
    )
    with open_slide(copy) as slide:
        assert slide.mpp is None


def test_other_pixels_and_huge_chunks_are_refused(tmp_path: Path) -> None:
    for name, options, says in (
        ("float", {"shape": (3, 9, 9), "chunks": (3, 9, 9), "dtype": "f4"}, "not 8-bit"),
        ("grey", {"shape": (1, 9, 9), "chunks": (1, 9, 9), "dtype": "u1"}, "axes"),
        ("huge", {"shape": (3, 10**5, 10**5), "chunks": (3, 9**5, 9**5), "dtype": "u1"}, "MiB"),
    ):
        group = zarr.open_group(tmp_path / f"{name}.zarr", mode="w", zarr_format=2)
        group.create_array("0", **options)
        axes = [{"name": axis} for axis in "cyx"]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
        with pytest.raises(RefusedError, match=says):
            open_slide(tmp_path / f"{name}.zarr")


def test_a_broken_chunk_is_named_or_filled(tmp_path: Path) -> None:
    path = Store(replace(Sheet(IMAGE), tile_px=128), "0.4").write(tmp_path / "a.zarr")
    (path / "0/0/1/1").write_bytes(b"\x55" * 100)
    with open_slide(path) as slide, pytest.raises(SlidesrError, match="level 0 cannot be read"):
        slide.frame().read(slide.size.box)
    with open_slide(path, fill=True) as slide:
        pixels = slide.frame().read(slide.size.box)
        assert slide.filled_tiles == {(0, Box(128, 128, 128, 128))}
    assert (pixels[128:256, 128:256] == 255).all()
    assert np.array_equal(pixels[:128], IMAGE[:128])
