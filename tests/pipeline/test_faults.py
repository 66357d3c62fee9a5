"""What goes wrong while a run is on its way: unreadable tiles, full disks, broken numbers."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.damage import break_tile
from support.models import tiny_generator
from support.networks import needs_bf16
from support.processes import MAIN
from support.slides import camelyon_style, subifd_ome, tissue
from torch import Tensor

from slidesr.cli import run as command
from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box
from slidesr.model.device import Engine
from slidesr.model.model import Model
from slidesr.model.weights import save_model
from slidesr.output.compression import Compression
from slidesr.output.format import Format
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import Progress, Summary, upscale
from slidesr.slide import open_slide

pytestmark = pytest.mark.usefixtures("small_blocks")

U8 = NDArray[np.uint8]

LOSSLESS = Format(Compression("lzw"))
TILE = 128
BAD = Box(256, 128, TILE, TILE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    camelyon_style(folder / "whole.tif", tissue(700, 600, seed=8), mpp=0.5, tile=TILE)
    (folder / "bad.tif").write_bytes((folder / "whole.tif").read_bytes())
    break_tile(folder / "bad.tif", BAD)
    spec, generator = tiny_generator(scale=4)
    save_model(folder / "tiny.safetensors", spec, generator)
    return folder


@pytest.fixture(scope="module")
def options(folder: Path) -> Options:
    return Options(
        model=str(folder / "tiny.safetensors"), tissue="all", device="cpu", precision="fp32"
    )


def run(source: Path, output: Path, options: Options, *, blocks: int | None = None) -> Summary:
    """Runs; an interrupt comes once so many blocks more are written."""
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if blocks is not None and len(reports) > blocks:
            raise KeyboardInterrupt

    with prepared(source, output, options) as job:
        return upscale(job, report)


# One source tile that cannot be read


def test_a_bad_tile_stops_the_run_and_is_named(
    folder: Path, options: Options, tmp_path: Path
) -> None:
    with pytest.raises(SlidesrError, match=r"bad\.tif: level 0 cannot be read at x \d+, y \d+"):
        run(folder / "bad.tif", tmp_path / "out.ome.tif", options)
    assert not (tmp_path / "out.ome.tif").exists()


def test_a_bad_tile_is_filled_on_request(folder: Path) -> None:
    with (
        open_slide(folder / "whole.tif") as whole,
        open_slide(folder / "bad.tif", fill=True) as bad,
    ):
        expected = whole.frame().read(whole.size.box).copy()
        expected[BAD.slices] = 255
        for box in (Box(300, 200, 60, 50), Box(0, 0, 257, 129), whole.size.box, Box(600, 9, 99, 9)):
            assert np.array_equal(bad.frame().read(box), expected[box.slices])
        assert bad.filled_tiles == {(0, BAD)}
        assert np.array_equal(bad.frame(level=1).read(Box(0, 0, 350, 300)), read_level(whole, 1))


def read_level(slide: Any, level: int) -> U8:
    frame = slide.frame(level=level)
    return np.asarray(frame.read(frame.size.box))


def test_a_bad_tile_of_a_pyramid_in_subifds_is_filled(tmp_path: Path) -> None:
    subifd_ome(tmp_path / "a.ome.tif", tissue(700, 600, seed=8), mpp=0.5)
    bad = Box(512, 256, 188, 256)
    break_tile(tmp_path / "a.ome.tif", bad)
    with open_slide(tmp_path / "a.ome.tif", fill=True) as slide:
        pixels = slide.frame().read(slide.size.box)
        assert slide.filled_tiles == {(0, bad)}
    assert (pixels[bad.slices] == 255).all()
    pixels[bad.slices] = tissue(700, 600, seed=8)[bad.slices]
    assert np.array_equal(pixels, tissue(700, 600, seed=8))


@pytest.mark.parametrize("layout", ["hybrid", "ome", "generic"])
def test_filled_tiles_are_told_by_the_output_and_survive_a_stop(
    folder: Path, options: Options, layout: str, tmp_path: Path
) -> None:
    filling = replace(options, on_bad_tile="fill", format=Format(layout=layout))
    summary = run(folder / "bad.tif", tmp_path / "whole.ome.tif", filling)
    assert summary.filled_tiles == ("0:256,128,128,128",)
    stopped = tmp_path / "stopped.ome.tif"
    with pytest.raises(KeyboardInterrupt):
        run(folder / "bad.tif", stopped, filling, blocks=8)
    again = run(folder / "bad.tif", stopped, filling)
    assert again.resumed_px > 0
    assert again.filled_tiles == summary.filled_tiles
    assert stopped.read_bytes() == (tmp_path / "whole.ome.tif").read_bytes()
    with open_slide(stopped) as made:
        assert made.provenance["filled_source_tiles"] == "0:256,128,128,128"
        assert made.provenance["synthetic"] == "true"
        assert made.frame().read(Box(0, 0, 64, 64)).any()


def test_many_threads_meet_bad_tiles(folder: Path, options: Options, tmp_path: Path) -> None:
    source = tmp_path / "very bad.tif"
    source.write_bytes((folder / "whole.tif").read_bytes())
    bad = [Box(x, y, TILE, TILE) for x, y in ((0, 0), (128, 0), (256, 256), (384, 384), (0, 384))]
    for tile in bad:
        break_tile(source, tile)
    lossless = replace(
        options, on_bad_tile="fill", format=Format(Compression("lzw")), num_workers=8
    )
    summary = run(source, tmp_path / "a.ome.tif", lossless)
    assert len(summary.filled_tiles) == len(bad)
    run(source, tmp_path / "b.ome.tif", replace(lossless, num_workers=1))
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()


def test_the_command_says_3(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["upscale", str(folder / "bad.tif"), "-o", str(tmp_path / "out.ome.tif"), "--json"]
    arguments += ["--model", str(folder / "tiny.safetensors"), "--tissue", "all"]
    assert command([*arguments, "--precision", "fp32"]) == 1
    assert "level 0 cannot be read" in capsys.readouterr().err
    assert command([*arguments, "--precision", "fp32", "--on-bad-tile", "fill"]) == 3
    assert json.loads(capsys.readouterr().out)["filled_tiles"] == ["0:256,128,128,128"]


def test_a_slide_that_vanishes_is_no_slide_of_background(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "slide.tif"
    source.write_bytes((folder / "bad.tif").read_bytes())
    with open_slide(source, fill=True) as slide:
        source.unlink()
        with pytest.raises(SlidesrError, match=r"slide\.tif: No such file") as caught:
            slide.frame().read(slide.size.box)
    assert caught.value.exit_code == 1


# The slide changes


@pytest.mark.parametrize("gone", [False, True])
def test_a_slide_that_changes_meanwhile_is_not_published(
    folder: Path, options: Options, tmp_path: Path, *, gone: bool
) -> None:
    source, output = tmp_path / "slide.tif", tmp_path / "out.ome.tif"
    source.write_bytes((folder / "whole.tif").read_bytes())

    def change(progress: Progress) -> None:
        if progress.source_px > 350_000:
            source.unlink() if gone else os.utime(source, (1, 1))

    with (
        prepared(source, output, options) as job,
        pytest.raises(SlidesrError, match="gone" if gone else "changed while it was read") as error,
    ):
        upscale(job, lambda progress: change(progress) if source.exists() else None)
    assert error.value.exit_code == 1
    assert not output.exists()


# The model


class Fragile(Model):
    """A model whose device holds `room` tiles at a time."""

    room = 3

    @property
    def batch_size(self) -> int:
        return 8

    def _forward(self, tiles: U8) -> U8:
        if len(tiles) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._forward(tiles)


@pytest.fixture
def tiles() -> U8:
    spec, generator = tiny_generator(scale=4)
    side = 64 + 2 * Model(spec, generator, "").halo_px
    return np.random.default_rng(0).integers(0, 256, (11, side, side, 3), np.uint8)


def test_out_of_memory_halves_the_batch_and_changes_no_pixel(
    tiles: U8, caplog: pytest.LogCaptureFixture
) -> None:
    spec, generator = tiny_generator(scale=4)
    with caplog.at_level(logging.WARNING):
        made = Fragile(spec, generator, "").upscale(tiles)
    assert np.array_equal(made, Model(spec, generator, "").upscale(tiles))
    assert [record.getMessage() for record in caplog.records] == [
        "cpu is out of memory: the batch size is now 4",
        "cpu is out of memory: the batch size is now 2",
    ]


def test_out_of_memory_for_one_tile_is_told(tiles: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fragile, "room", 0)
    spec, generator = tiny_generator(scale=4)
    with pytest.raises(SlidesrError, match="out of memory for a single tile"):
        Fragile(spec, generator, "").upscale(tiles)


def broken(model: Model, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, at: int) -> None:
    """The network gives no number in one tile where it runs in that precision."""
    attended = type(model._generator).attended

    def bad(self: Any, low: Tensor, beyond_px: int) -> Tensor:
        maps = attended(self, low, beyond_px)
        if next(self.parameters()).dtype == dtype and len(low) > at:
            maps[at, 0, 8, 8] = float("nan")
        return maps

    monkeypatch.setattr(type(model._generator), "attended", bad)


@needs_bf16
def test_no_number_at_bf16_is_made_again_at_fp32(
    tiles: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, generator = tiny_generator(scale=4)
    good = Model(spec, generator, "", Engine("cpu", "bf16")).upscale(tiles)
    exact = Model(spec, generator, "", Engine("cpu", "fp32")).upscale(tiles)
    model = Model(spec, generator, "", Engine("cpu", "bf16"))
    monkeypatch.setattr(type(model), "batch_size", 4)
    model._batch_that_fits = 4
    broken(model, monkeypatch, torch.bfloat16, at=2)
    made = model.upscale(tiles)
    mended = [2, 6]
    assert np.array_equal(made[mended], exact[mended])
    others = [0, 1, 3, 4, 5, 7, 8]
    assert np.abs(made[others].astype(int) - good[others]).max() <= 1


@needs_bf16
def test_no_number_at_fp32_stops(tiles: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, generator = tiny_generator(scale=4)
    model = Model(spec, generator, "", Engine("cpu", "bf16"))
    broken(model, monkeypatch, torch.float32, at=0)
    broken(model, monkeypatch, torch.bfloat16, at=0)
    with pytest.raises(SlidesrError, match="fp32 output is not finite"):
        model.upscale(tiles)


# The disk


@pytest.fixture(scope="module")
def whole(folder: Path, options: Options) -> bytes:
    run(folder / "whole.tif", folder / "whole.ome.tif", options)
    return (folder / "whole.ome.tif").read_bytes()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.97, 0.9999])
def test_a_file_that_may_not_grow_is_told_and_gone_on_with(
    folder: Path, options: Options, whole: bytes, share: float, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    with limited(int(share * len(whole))), pytest.raises(SlidesrError) as error:
        run(folder / "whole.tif", output, options)
    assert f"{output}: cannot be written: File too large" in str(error.value)
    assert "the same command again" in str(error.value)
    assert "\n" not in str(error.value)
    assert not output.exists()
    assert run(folder / "whole.tif", output, options).resumed_px >= (share > 0.4)
    assert output.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [output]


class limited:
    """No file may be larger than so many bytes."""

    def __init__(self, most: int) -> None:
        self._most, self._old = most, resource.getrlimit(resource.RLIMIT_FSIZE)

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._most, self._old[1]))

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._old)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_gone_on_with(
    folder: Path, options: Options, whole: bytes, small_disk: Path
) -> None:
    output, lossless = (
        small_disk / "out.ome.tif",
        replace(options, format=LOSSLESS),
    )
    with pytest.raises(RefusedError, match=r"takes about \d+ MB, and 1 MB are free"):
        run(folder / "whole.tif", output, lossless)
    assert list(small_disk.iterdir()) == []
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    assert len(whole) > 700_000
    with pytest.raises(SlidesrError, match=r"No space left on device \(0 MB are free, about"):
        run(folder / "whole.tif", output, options)
    assert not output.exists()
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    run(folder / "whole.tif", output, options)
    assert output.read_bytes() == whole
    assert list(small_disk.iterdir()) == [output]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 14, 27, 28])
def test_a_disk_that_fails_to_sync_is_told_and_gone_on_with(
    folder: Path,
    options: Options,
    whole: bytes,
    nth: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    output, sync, calls = tmp_path / "out.ome.tif", os.fsync, 0

    def failing(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(SlidesrError, match="cannot be written: Input/output error"):
            run(folder / "whole.tif", output, options)
    assert not output.exists() or output.read_bytes() == whole
    if not output.exists():
        run(folder / "whole.tif", output, options)
    assert output.read_bytes() == whole


# The surroundings


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_zone_locale_and_umask(
    folder: Path, whole: bytes, tmp_path: Path
) -> None:
    arguments = ["upscale", "--model", str(folder / "tiny.safetensors"), "--tissue", "all"]
    arguments += ["--device", "cpu", "--precision", "fp32", str(folder / "whole.tif"), "-o"]
    places = {
        "a": ({"TZ": "Pacific/Kiritimati", "LC_ALL": "C"}, 0o077, "1"),
        "b": ({"TZ": "America/New_York", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr"}, 0o000, "4"),
    }
    for name, (place, umask, workers) in places.items():
        output = tmp_path / f"{name}.ome.tif"
        subprocess.run(
            [*MAIN, *arguments, str(output), "--num-workers", workers],
            env=os.environ | place,
            umask=umask,
            check=True,
            capture_output=True,
        )
        assert output.read_bytes() == whole
        assert output.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_signal_while_the_command_loads_is_one_line() -> None:
    """Before anything is begun, too."""
    started = [sys.executable, "-c", "from slidesr.cli import main; main()", "models"]
    with subprocess.Popen(started, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1].decode()
    assert "Traceback" not in said
