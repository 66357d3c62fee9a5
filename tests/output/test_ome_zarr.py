"""The written store as its arrays and attributes are; how it comes to be whole or not at all."""

from __future__ import annotations

import base64
import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support.blocks import ICC_PROFILE, METADATA, Sheet, stained
from support.files import content
from support.zarr_files import Store

from slidesr.errors import BusyError, RefusedError, SlidesrError
from slidesr.output.metadata import Metadata
from slidesr.output.pyramid import halved
from slidesr.output.staging import sweep

U8 = NDArray[np.uint8]
VERSIONS = ("0.4", "0.5")


@pytest.fixture(scope="module")
def image() -> U8:
    return stained(401, 333)


@pytest.fixture(params=VERSIONS)
def store(request: pytest.FixtureRequest, image: U8) -> Store:
    return Store(Sheet(image), request.param)


def multiscale_of(path: Path) -> dict[str, Any]:
    attributes: Any = zarr.open_group(path, mode="r").attrs.asdict()
    found: dict[str, Any] = attributes.get("ome", attributes)["multiscales"][0]
    return found


# What it holds


def test_every_level_is_the_halved_image(store: Store, image: U8, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.ome.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]
    group, expected = zarr.open_group(path, mode="r"), image
    for level in range(len(store.sheet.plan.levels)):
        array = group[str(level)]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(np.asarray(array[:]).transpose(1, 2, 0), expected)
        assert array.chunks == (3, 64, 64)
        expected = halved(expected)


def test_shards_are_blocks_and_chunks_are_tiles(image: U8, tmp_path: Path) -> None:
    path = Store(Sheet(image), "0.5").write(tmp_path / "a.ome.zarr")
    shards = [zarr.open_array(path / str(level), mode="r").shards for level in range(4)]
    assert shards == [(3, 128, 128), None, None, None]
    assert len(content(path)) == 12 + 12 + 4 + 1 + 5
    other = Store(Sheet(image), "0.4").write(tmp_path / "b.ome.zarr")
    assert len(content(other)) == 42 + 12 + 4 + 1 + 2 + 2 * 4


def test_black_is_stored_too(tmp_path: Path) -> None:
    black = Store(Sheet(np.zeros((130, 70, 3), np.uint8)), "0.4").write(tmp_path / "a.ome.zarr")
    assert {"0/0/0/0", "0/0/2/1", "1/0/1/0"} <= content(black).keys()


def test_the_attributes_are_what_readers_want(store: Store, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.ome.zarr")
    attributes: Any = zarr.open_group(path, mode="r").attrs.asdict()
    multiscale = multiscale_of(path)
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [None, "micrometer", "micrometer"]
    assert multiscale["datasets"][1] == {
        "path": "1",
        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.2469]}],
    }
    omero = attributes.get("ome", attributes)["omero"]
    assert [channel["label"] for channel in omero["channels"]] == ["Red", "Green", "Blue"]
    assert omero["rdefs"]["model"] == "color"
    assert zarr.open_array(path / "0", mode="r").attrs["_ARRAY_DIMENSIONS"] == ["c", "y", "x"]
    ours = attributes["slidesr"]
    assert ours["provenance"] == METADATA.provenance
    assert ours["magnification"] == 160.0
    assert base64.b64decode(ours["icc_profile"]) == ICC_PROFILE
    version = multiscale["version"] if store.version == "0.4" else attributes["ome"]["version"]
    assert version == store.version


def test_what_is_not_known_is_not_said(store: Store, tmp_path: Path) -> None:
    bare = replace(store, sheet=replace(store.sheet, metadata=Metadata(None, None, None)))
    path = bare.write(tmp_path / "a.ome.zarr")
    assert "unit" not in json.dumps(multiscale_of(path))
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    assert attributes["slidesr"] == {"provenance": {}}


def test_validators_take_it(store: Store, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.ome.zarr")
    models = pytest.importorskip("ome_zarr_models")
    models.open_ome_zarr(zarr.open_group(path, mode="r"), version=store.version)
    yaozarrs = pytest.importorskip("yaozarrs")
    yaozarrs.validate_zarr_store(str(path))


def test_the_same_input_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    first, second = (store.write(tmp_path / f"{name}.ome.zarr") for name in "ab")
    assert content(first) == content(second)
    assert str(tmp_path).encode() not in b"".join(content(first).values())


def test_an_unknown_version_is_refused(image: U8, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'0\.6' is not one of 0\.4, 0\.5"):
        Store(Sheet(image), "0.6").writer(tmp_path / "a.ome.zarr")


# Whole or not at all


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("blocks", [1, 6, 12])
def test_it_goes_on_where_it_was_stopped(store: Store, blocks: int, tmp_path: Path) -> None:
    whole = content(store.write(tmp_path / "whole.ome.zarr"))
    path = tmp_path / "a.ome.zarr"
    with store.writer(path) as writer:
        store.append(writer, blocks)
        writer.notes["learnt"] = "much"
        ahead = list(store.sheet.painted())[blocks : blocks + 2]
        for painted in ahead:  # what was made ahead of the checkpoint
            writer.encode(painted)
    assert not path.exists()
    (tmp_path / ".a.ome.zarr.part" / "0" / "torn.partial").write_bytes(b"torn")
    with store.writer(path) as writer:
        assert writer.resumed == blocks
        store.append(writer)
        writer.notes.clear()
        writer.finish()
    assert content(path) == whole
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.ome.zarr", "whole.ome.zarr"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("left", [b"", b"{x", b'{"zarr_format": 3, "`ttributes": {}}'])
def test_it_goes_on_whatever_became_of_the_groups_own_files(
    store: Store, left: bytes, tmp_path: Path
) -> None:
    whole, path = content(store.write(tmp_path / "whole.ome.zarr")), tmp_path / "a.ome.zarr"
    with store.writer(path) as writer:
        store.append(writer, 6)
    for name in (".zgroup", ".zattrs") if store.version == "0.4" else ("zarr.json",):
        (tmp_path / ".a.ome.zarr.part" / name).write_bytes(left)
    with store.writer(path) as writer:
        assert writer.resumed == 6
        store.append(writer)
        writer.finish()
    assert content(path) == whole


def test_notes_are_told(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    with store.writer(path) as writer:
        store.append(writer)
        writer.notes["learnt"] = "much"
        writer.finish()
    ours: Any = zarr.open_group(path, mode="r").attrs["slidesr"]
    assert ours["provenance"] == METADATA.provenance | {"learnt": "much"}


def test_nothing_is_left_without_a_block(store: Store, tmp_path: Path) -> None:
    with store.writer(tmp_path / "a.ome.zarr"):
        assert [entry.name for entry in tmp_path.iterdir()] == [".a.ome.zarr.part"]
    assert not list(tmp_path.iterdir())


def test_two_runs_to_one_output_do_not_mix(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    with store.writer(path) as writer:
        with pytest.raises(BusyError, match="another process"):
            store.writer(path)
        store.append(writer)
        writer.finish()
    assert multiscale_of(path)


def test_an_old_store_stands_until_the_new_one_is_whole(store: Store, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.ome.zarr")
    before = content(path)
    with pytest.raises(RefusedError, match="exists already"):
        store.writer(path)
    other = replace(store, overwrite=True, sheet=Sheet(255 - store.sheet.image))
    with other.writer(path) as writer:
        other.append(writer)
        assert content(path) == before
        sweep(path)  # which another command might do now
        writer.finish()
    assert content(path) != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_the_old_store_is_swept_after_a_kill(store: Store, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.ome.zarr")
    store.write(tmp_path / "old.ome.zarr").rename(tmp_path / ".a.ome.zarr.part")
    sweep(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]


@pytest.mark.usefixtures("eager")
def test_a_file_that_may_not_grow_is_told_and_gone_on_with(store: Store, tmp_path: Path) -> None:
    whole = content(store.write(tmp_path / "whole.ome.zarr"))
    path, old = tmp_path / "a.ome.zarr", resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(run: Callable[[], None]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, old[1]))
        try:
            run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    with store.writer(path) as writer:
        store.append(writer, 2)
    with store.writer(path) as writer, pytest.raises(SlidesrError, match="File too large"):
        limited(lambda: store.append(writer))
    assert not path.exists()
    with store.writer(path) as writer:
        assert writer.resumed >= 2
        store.append(writer)
        writer.finish()
    assert content(path) == whole
