"""OME-Zarr as input: the same pixels for every box, in any axes; what is hostile is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
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
from support.blocks import METADATA, MPP, Sheet, stained
from support.models import tiny_generator
from support.slides import tissue
from support.zarr_files import Store

from slidesr.cli import run
from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Mpp
from slidesr.model.weights import save_model
from slidesr.runtime import sandbox
from slidesr.slide import open_slide
from slidesr.slide._stamp import stamp_of

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


def test_a_zip_is_closed(store: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "a.ome.zarr.zip"
    shutil.make_archive(str(zipped.with_suffix("")), "zip", store)
    slides = [open_slide(zipped) for _ in range(3)]
    for slide in slides:
        slide.close()
    handles = Path("/proc/self/fd").iterdir()
    assert zipped not in [each.readlink() for each in handles if each.is_symlink()]


def test_a_folder_may_be_called_like_a_url(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(store, "ab:/a.zarr")
    with open_slide(Path("ab:/a.zarr")) as slide:
        assert slide.size == Box(0, 0, 401, 333).size


def test_a_store_behind_a_url_has_a_stamp(store: Path) -> None:
    remote = pytest.importorskip("fsspec").filesystem("memory")
    remote.put(str(store), f"/{store.parent.name}", recursive=True)
    path = Path(f"memory://{store.parent.name}")
    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        boxes = [Box(x, y, 90, 70) for x in range(0, 300, 60) for y in range(0, 250, 60)]
        for box, pixels in zip(boxes, pool.map(slide.frame().read, boxes), strict=True):
            assert np.array_equal(pixels, IMAGE[box.slices])
        before = slide.stamp
        assert before == stamp_of(path) != (0, 0)
    mark = next(n for n in (".zattrs", "zarr.json") if (store / n).exists())
    document = json.loads((store / mark).read_text())
    document.get("attributes", document)["slidesr"]["magnification"] = 7
    remote.pipe(f"/{store.parent.name}/{mark}", json.dumps(document).encode())
    assert stamp_of(path) != before
    remote.rm(f"/{store.parent.name}", recursive=True)
    with pytest.raises(SlidesrError, match="is gone"):
        stamp_of(path)


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


@pytest.mark.parametrize("name", ["in.ome.zarr.zip", "in.zarr.zip", "in"])
def test_a_store_by_any_name_is_one_slide(
    store: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name.endswith(".zip"):
        shutil.make_archive(name.removesuffix(".zip"), "zip", store)
    else:
        shutil.copytree(store, name)
    save_model(Path("tiny.safetensors"), *tiny_generator(scale=4))
    tried, started = list[Path](), sandbox._start_child

    def noting(path: Path) -> subprocess.Popen[bytes]:
        tried.append(path)
        return started(path)

    monkeypatch.setattr(sandbox, "_start_child", noting)
    options = ["--model", "tiny.safetensors", "--tissue", "all", "--device", "cpu"]
    assert run(["upscale", *options, name]) == 0
    assert Path("in.x4.ome.tif").is_file()
    assert tried == [Path(name)]


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


@pytest.mark.parametrize("names", ["cy c y x", "yx c y x", "z z c y x", "c y y x", "q c y x"])
def test_axes_of_other_names_or_twice_are_refused(names: str, tmp_path: Path) -> None:
    """`"cy" in "cyx"` holds: such an axis was read as its first plane."""
    axes: Any = [{"name": name} for name in names.split()]
    shape = (*[1] * (len(axes) - 4), 3, 3, 9, 9)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=shape, chunks=shape, dtype="u1")
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    with pytest.raises(RefusedError, match="axes"):
        open_slide(tmp_path / "a.zarr")


def test_a_scale_of_all_levels_counts_too(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.zarr"
    shutil.copytree(store, copy)
    of_all = [{"type": "scale", "scale": [1, 3.0, 2.0]}]
    change(copy, lambda a: first(a).update(coordinateTransformations=of_all))
    with open_slide(copy) as slide:
        assert slide.mpp == Mpp(MPP.x * 2, MPP.y * 3)


@pytest.mark.parametrize("text", ["\u00e9", "not base64!", 7])
def test_a_profile_that_is_none_is_absent(store: Path, text: object, tmp_path: Path) -> None:
    copy = tmp_path / "a.zarr"
    shutil.copytree(store, copy)
    group = zarr.open_group(copy, mode="r+")
    ours: Any = {"icc_profile": text, "magnification": [20], "provenance": "x"}
    group.attrs["slidesr"] = ours
    with open_slide(copy) as slide:
        assert (slide.icc_profile, slide.magnification, slide.provenance) == (None, None, {})


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """numcodecs has a codec that runs what a chunk says; zarr knows it for objects alone."""
    path = Store(Sheet(IMAGE), "0.4").write(tmp_path / "a.zarr")
    document = json.loads((path / "0/.zarray").read_text())
    document["compressor"] = {"id": "pickle", "protocol": 5}
    (path / "0/.zarray").write_text(json.dumps(document))
    with pytest.raises(RefusedError, match="not a slide"):
        open_slide(path)


def test_a_missing_chunk_is_its_fill_value(tmp_path: Path) -> None:
    path = Store(replace(Sheet(IMAGE), tile_px=128), "0.4").write(tmp_path / "a.zarr")
    (path / "0/0/1/1").unlink()
    with open_slide(path) as slide:
        pixels = slide.frame().read(slide.size.box)
    assert not pixels[128:256, 128:256].any()
    assert np.array_equal(pixels[:128], IMAGE[:128])


def test_other_pixels_and_huge_chunks_are_refused(tmp_path: Path) -> None:
    for name, options, says in (
        ("float", {"shape": (3, 9, 9), "chunks": (3, 9, 9), "dtype": "f4"}, "are float32"),
        ("two", {"shape": (2, 9, 9), "chunks": (2, 9, 9), "dtype": "u1"}, "2 channels"),
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
