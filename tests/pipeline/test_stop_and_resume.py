"""Runs that are stopped, killed, damaged and gone on with give an undisturbed run's bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.files import part_of, state_of
from support.models import tiny_generator
from support.processes import MAIN, wait_for
from support.slides import camelyon_style, tissue

from slidesr.errors import BusyError, RefusedError
from slidesr.model.weights import save_model
from slidesr.output.format import Format
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import Progress, Summary, upscale

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slide")


@pytest.fixture(scope="module")
def slide(folder: Path) -> Path:
    """A slide of 16 blocks, with a glass corner."""
    image = tissue(1000, 800, seed=5)
    image[:400, 600:] = 240
    camelyon_style(folder / "slide.tif", image, mpp=0.5)
    return folder / "slide.tif"


@pytest.fixture(scope="module")
def options(folder: Path) -> Options:
    spec, generator = tiny_generator(scale=4)
    save_model(folder / "tiny.safetensors", spec, generator)
    return Options(
        model=str(folder / "tiny.safetensors"), tissue="all", device="cpu", precision="fp32"
    )


@pytest.fixture(scope="module")
def whole(slide: Path, options: Options, folder: Path) -> bytes:
    """What an undisturbed run writes."""
    with prepared(slide, folder / "whole.ome.tif", options) as job:
        assert job.plan.block_count == 16
        upscale(job)
    return (folder / "whole.ome.tif").read_bytes()


def run(slide: Path, output: Path, options: Options, *, blocks: int | None = None) -> Summary:
    """Runs, and stops by an interrupt once so many blocks more are written."""
    told = 0

    def stop(progress: Progress) -> None:
        nonlocal told
        told += 1  # the first time of what is there
        if blocks is not None and told > blocks:
            raise KeyboardInterrupt

    with prepared(slide, output, options) as job:
        return upscale(job, stop)


def stopped(slide: Path, output: Path, options: Options, blocks: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(slide, output, options, blocks=blocks)


@pytest.mark.usefixtures("eager")
def test_a_run_goes_on_where_it_was_stopped(
    slide: Path, options: Options, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    for blocks in (1, 4, 0, 3):
        stopped(slide, output, options, blocks)
        assert not output.exists()
        assert {path.name for path in tmp_path.iterdir()} == {
            part_of(output).name,
            state_of(output).name,
        }
    summary = run(slide, output, options)
    assert 0.4 < summary.resumed_px / summary.tissue_px < 0.9
    assert summary.tissue_px == 1000 * 800
    assert output.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [output]


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """A slide of four blocks."""
    camelyon_style(folder / "small.tif", tissue(330, 300, seed=6), mpp=0.5)
    return folder / "small.tif"


@pytest.fixture(scope="module")
def small_whole(small: Path, options: Options, folder: Path) -> bytes:
    run(small, folder / "small.ome.tif", options)
    return (folder / "small.ome.tif").read_bytes()


@pytest.mark.usefixtures("eager")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_never_reaches_the_output(
    data: st.DataObject,
    small: Path,
    options: Options,
    small_whole: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever is cut off or flipped in what a stopped run left, the next one is right."""
    output = tmp_path_factory.mktemp("damage") / "out.ome.tif"
    stopped(small, output, options, data.draw(st.integers(1, 3)))
    victim = data.draw(st.sampled_from([state_of(output), part_of(output)]))
    kept = bytearray(victim.read_bytes())
    at = data.draw(st.integers(0, len(kept) - 1))
    if data.draw(st.booleans()):
        del kept[at:]
    else:
        kept[at] ^= 1 << data.draw(st.integers(0, 7))
    victim.write_bytes(kept)
    run(small, output, options)
    assert output.read_bytes() == small_whole
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.usefixtures("eager")
def test_another_run_is_not_gone_on_with(
    slide: Path, options: Options, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    stopped(slide, output, options, 3)
    before = state_of(output).read_bytes()
    others = {
        "model": replace(options, ensemble=True),
        "compression": replace(options, format=Format(layout="ome")),
        "plan": replace(options, level=1),
        "tissue mask": replace(options, tissue="auto"),
        "metadata": replace(options, source_mpp=0.3),
    }
    for name, other in others.items():
        with pytest.raises(RefusedError, match=f"another.*{name}"):
            run(slide, output, other)
    assert state_of(output).read_bytes() == before
    run(slide, output, options)
    assert output.read_bytes() == whole


@pytest.mark.usefixtures("eager")
def test_a_changed_slide_or_model_is_told(slide: Path, options: Options, tmp_path: Path) -> None:
    copy, weights = tmp_path / "slide.tif", tmp_path / "tiny.safetensors"
    copy.write_bytes(slide.read_bytes())
    weights.write_bytes(Path(options.model or "").read_bytes())
    output, options = tmp_path / "out.ome.tif", replace(options, model=str(weights))
    stopped(copy, output, options, 3)
    os.utime(copy, (1, 1))
    with pytest.raises(RefusedError, match="another slide"):
        run(copy, output, options)
    spec, generator = tiny_generator(scale=4)
    with torch.no_grad():
        next(generator.parameters()).add_(1)
    save_model(weights, spec, generator)
    with pytest.raises(RefusedError, match=r"another model, slide\."):
        run(copy, output, options)
    assert run(copy, output, replace(options, overwrite=True)).resumed_px == 0


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("is_linked", [False, True])
def test_what_a_kill_after_publishing_left_is_swept(
    slide: Path, options: Options, whole: bytes, tmp_path: Path, *, is_linked: bool
) -> None:
    output = tmp_path / "out.ome.tif"
    output.write_bytes(whole)
    if is_linked:  # killed between the new name and the end of the old
        part_of(output).hardlink_to(output)
    state_of(output).write_bytes(b"left")
    with pytest.raises(RefusedError, match="exists already"):
        run(slide, output, options)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.usefixtures("eager")
def test_a_second_process_is_kept_out_and_breaks_nothing(
    slide: Path, options: Options, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"

    def second(progress: Progress) -> None:
        with pytest.raises(BusyError, match="another process"):
            run(slide, output, options)

    with prepared(slide, output, options) as job:
        upscale(job, second)
    assert output.read_bytes() == whole


# Signals, to the command as users run it


def arguments(slide: Path, output: Path, options: Options) -> list[str]:
    told = ["upscale", str(slide), "-o", str(output), "--model", str(options.model)]
    return [*MAIN, *told, "--tissue", "all", "--precision", "fp32"]


def test_a_signal_stops_it_in_one_line_and_the_same_command_goes_on(
    slide: Path, options: Options, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        command = arguments(slide, output, options)
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            wait_for(state_of(output), process, newer_than=time.time())
            process.send_signal(number)
            said = process.communicate(timeout=10)[1].decode()
        assert process.returncode == code
        assert "the same command resumes from here" in said
        assert "Traceback" not in said
        assert not output.exists()
    subprocess.run(arguments(slide, output, options), check=True, capture_output=True)
    assert output.read_bytes() == whole


def kill_times(seed: int, whole_run_s: float) -> Iterator[tuple[float, int]]:
    """When and by what a run is hit, while its blocks are made or its file is put together."""
    rng = random.Random(seed)  # noqa: S311
    while True:
        yield (
            rng.uniform(0, whole_run_s),
            rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
        )


@pytest.mark.slow
def test_killed_at_random_it_still_ends_with_the_same_bytes(
    slide: Path, options: Options, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    started, signals = time.monotonic(), 0
    subprocess.run(arguments(slide, tmp_path / "timed.ome.tif", options), check=True)
    (tmp_path / "timed.ome.tif").unlink()
    for after_s, number in kill_times(7, time.monotonic() - started):
        with subprocess.Popen(
            arguments(slide, output, options), stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                _, said = process.communicate(timeout=after_s)
                assert process.returncode == 0, said
                break
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                signals += 1
                _, said = process.communicate(timeout=10)
                assert process.returncode in (0, -number, 128 + number), said
        if output.exists():
            break
    assert signals > 0
    assert output.read_bytes() == whole
