"""An OME-Zarr written behind a URL: the bytes of a folder's, and an image only when it is whole."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from support.files import content
from support.models import tiny_generator
from support.slides import camelyon_style, tissue

from slidesr.cli import run
from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.weights import save_model
from slidesr.output.format import Format
from slidesr.output.zarr.chunk_storage import Bucket, FingerprintingStore
from slidesr.output.zarr.remote import STATE
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import Progress, Summary, upscale
from slidesr.slide import open_slide

pytestmark = pytest.mark.usefixtures("small_blocks", "eager")


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of nine blocks, tiny weights, and what is made of it in a folder."""
    folder = tmp_path_factory.mktemp("slide")
    camelyon_style(folder / "slide.tif", tissue(700, 600, seed=5), mpp=0.5)
    save_model(folder / "tiny.safetensors", *tiny_generator(scale=4))
    (folder / "version").write_text(request.param)
    upscaled(folder, folder / "whole.ome.zarr")
    return folder


def options_of(folder: Path) -> Options:
    return Options(
        model=str(folder / "tiny.safetensors"),
        tissue="all",
        device="cpu",
        precision="fp32",
        format=Format(ngff_version=(folder / "version").read_text()),
    )


def upscaled(
    folder: Path,
    output: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    **choices: object,
) -> Summary:
    options = replace(options_of(folder), **choices)  # type: ignore[arg-type]
    with prepared(folder / "slide.tif", output, options) as job:
        assert job.plan.block_count == 9
        return upscale(job, report)


def url(path: Path) -> Path:
    """By fsspec, as s3:// and gs:// are."""
    return Path(f"file://{path}")


class Stopped(Exception):
    pass


def stop_after(blocks: int) -> Callable[[Progress], None]:
    told = iter(range(blocks))

    def report(progress: Progress) -> None:
        if next(told, None) is None:
            raise Stopped

    return report


def test_the_bytes_are_those_of_a_folder(folder: Path, tmp_path: Path) -> None:
    summary = upscaled(folder, url(tmp_path / "a.ome.zarr"))
    whole = content(folder / "whole.ome.zarr")
    assert content(tmp_path / "a.ome.zarr") == whole
    assert summary.output_bytes == sum(map(len, whole.values()))
    with open_slide(url(tmp_path / "a.ome.zarr")) as slide:
        assert slide.provenance["synthetic"] == "true"


@pytest.fixture
def bucket() -> Iterator[Path]:
    yield Path("memory://bucket/a.ome.zarr")
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_store_without_folders(folder: Path, bucket: Path) -> None:
    upscaled(folder, bucket)
    files = fsspec.filesystem("memory").find("/bucket/a.ome.zarr")
    whole = content(folder / "whole.ome.zarr")
    assert {name.removeprefix("/bucket/a.ome.zarr/") for name in files} == whole.keys()


def test_a_stopped_run_is_no_image_and_goes_on(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.ome.zarr"
    with pytest.raises(Stopped):
        upscaled(folder, url(output), stop_after(4))
    assert (output / STATE).exists()
    (output / "0" / "torn").write_bytes(b"of a block that the checkpoint does not tell")
    with pytest.raises(RefusedError, match="multiscales"):
        open_slide(url(output))
    other = rf"{output}: a run was stopped here with another model"
    save_model(tmp_path / "other.safetensors", *tiny_generator(scale=4, window=16))
    with pytest.raises(RefusedError, match=other):
        upscaled(folder, url(output), model=str(tmp_path / "other.safetensors"))
    summary = upscaled(folder, url(output))
    assert summary.resumed_px >= 3 * 256 * 256
    assert content(output) == content(folder / "whole.ome.zarr")


@pytest.mark.parametrize("harm", ["remove", "cut"])
def test_what_is_damaged_is_made_anew(
    harm: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "a.ome.zarr"
    with pytest.raises(Stopped):
        upscaled(folder, url(output), stop_after(4))
    prefix = "0/0/0" if (folder / "version").read_text() == "0.4" else "0/c/0/0"
    chunk = output / prefix / "0"
    if harm == "remove":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert not upscaled(folder, url(output)).resumed_px
    assert "what a stopped run left is damaged" in caplog.text
    assert content(output) == content(folder / "whole.ome.zarr")


def test_what_exists_is_replaced_only_if_that_is_wanted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "a.ome.zarr"
    shutil.copytree(folder / "whole.ome.zarr", output)
    (output / "0" / "old").write_bytes(b"old")
    (output / STATE).write_bytes(b"left by a kill")
    with pytest.raises(RefusedError, match=f"^file://{output}: exists already"):
        upscaled(folder, url(output))
    assert not (output / STATE).exists()
    with caplog.at_level(logging.WARNING):
        upscaled(folder, url(output), overwrite=True)
    assert "is removed before the new one is written" in caplog.text
    assert content(output) == content(folder / "whole.ome.zarr")


def test_a_store_that_fails_is_one_line_and_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, set_, read, count = tmp_path / "a.ome.zarr", FingerprintingStore.set, Bucket.read, 0

    def failing_too(bucket: Bucket, key: str) -> bytes | None:
        if count > 9:
            raise RuntimeError("the bucket is gone, and does not come back")
        return read(bucket, key)

    async def failing(store: FingerprintingStore, key: str, value: object) -> None:
        nonlocal count
        count += 1
        if count > 9:
            raise RuntimeError("the bucket is gone")
        await set_(store, key, value)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FingerprintingStore, "set", failing)
        patch.setattr(Bucket, "read", failing_too)
        line = rf"file://{output}: cannot be written: RuntimeError: the bucket is gone.* it resumes"
        with pytest.raises(SlidesrError, match=line):
            upscaled(folder, url(output))
    upscaled(folder, url(output))
    assert content(output) == content(folder / "whole.ome.zarr")


def test_nothing_is_left_of_a_run_that_did_not_begin(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        upscaled(folder, url(tmp_path / "a.ome.zarr"), stop_after(0))
    assert not content(tmp_path / "a.ome.zarr")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("memory://bucket/a.ome.tif", "memory://bucket/a.ome.tif: only an .ome.zarr"),
        ("nosuch://bucket/a.ome.zarr", "nosuch://bucket/a.ome.zarr: does not answer"),
    ],
)
def test_urls_that_cannot_be_written(
    output: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["upscale", str(folder / "slide.tif"), "--model", str(folder / "tiny.safetensors")]
    assert run([*told, "--tissue", "all", "-o", output]) == 2
    assert says in capsys.readouterr().err


def test_many_slides_do_not_go_behind_a_url(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert run(["upscale", "slide.tif", "slide.tif", "-o", "memory://bucket"]) == 2
    assert "memory://bucket: many slides go into a local folder" in capsys.readouterr().err
    assert not (folder / "memory:").exists()


def test_the_summary_tells_the_url(
    folder: Path, bucket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["upscale", str(folder / "slide.tif"), "--model", str(folder / "tiny.safetensors")]
    assert run([*told, "--tissue", "all", "-o", str(bucket), "--json"]) == 0
    assert '"output": "memory://bucket/a.ome.zarr"' in capsys.readouterr().out
