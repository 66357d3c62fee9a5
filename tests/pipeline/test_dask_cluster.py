"""The same bytes from a cluster as from one process, whatever becomes of its workers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from distributed import Scheduler, SpecCluster
from hypothesis import given
from hypothesis import strategies as st
from support.damage import break_tile
from support.files import content, part_of, state_of
from support.models import tiny_generator
from support.processes import MAIN, wait_for
from support.slides import camelyon_style, tissue

from slidesr.cli import run as command
from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box
from slidesr.model.device import Engine
from slidesr.model.weights import save_model
from slidesr.output.pyramid import EncodedBlock, UpscaledBlock
from slidesr.output.writer import BlockEncoder
from slidesr.pipeline.dask_cluster import cluster as clusters
from slidesr.pipeline.dask_cluster import task_queue as lines
from slidesr.pipeline.dask_cluster.cluster import Cluster, connected, of_devices
from slidesr.pipeline.dask_cluster.worker import packed
from slidesr.pipeline.job import Job
from slidesr.pipeline.job_spec import JobSpec
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import open_model, prepared
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.run import BlockResult, Executor, Progress, Summary, by_threads, upscale
from slidesr.tiling import Block

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # dask's own, in threads of its own
    pytest.mark.usefixtures("small_blocks"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 16 blocks with a glass corner, tiny weights, and what one process makes."""
    folder = tmp_path_factory.mktemp("slide")
    image = tissue(1000, 800, seed=5)
    image[:400, 600:] = 240
    camelyon_style(folder / "slide.tif", image, mpp=0.5)
    save_model(folder / "tiny.safetensors", *tiny_generator(scale=4))
    for name in ("whole.ome.tif", "whole.ome.zarr"):
        with prepared(folder / "slide.tif", folder / name, options_of(folder)) as job:
            assert job.plan.block_count == 16
            upscale(job)
    return folder


def options_of(folder: Path) -> Options:
    weights = str(folder / "tiny.safetensors")
    return Options(model=weights, tissue="all", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connected("local:2") as cluster:
        yield cluster


@dataclass
class Run:
    """Runs the slide on a cluster, and does something once three blocks are stored."""

    folder: Path
    cluster: Cluster

    def __call__(
        self,
        output: Path,
        make: Executor | None = None,
        at_three: Callable[[], None] = lambda: None,
        **choices: object,
    ) -> Summary:
        told = 0

        def report(progress: Progress) -> None:
            nonlocal told
            told += 1
            if told == 4:  # the first time of what is there
                at_three()

        options = replace(options_of(self.folder), **choices)  # type: ignore[arg-type]
        with prepared(self.folder / "slide.tif", output, options) as job:
            return upscale(job, report, executor=make or self.cluster.make)

    def is_whole(self, output: Path) -> bool:
        return content(output) == content(self.folder / f"whole{''.join(output.suffixes[-2:])}")


@pytest.fixture
def run(folder: Path, cluster: Cluster) -> Run:
    cluster.client.wait_for_workers(2, timeout=30)
    return Run(folder, cluster)


def pids(cluster: Cluster) -> list[int]:
    return list(cluster.client.run(os.getpid).values())


def test_two_workers_give_the_bytes_of_one_process(run: Run, tmp_path: Path) -> None:
    for name in ("out.ome.tif", "out.ome.zarr"):
        summary = run(tmp_path / name)
        assert run.is_whole(tmp_path / name)
        assert summary.stage_s["network"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ome.tif", "out.ome.zarr"]


def test_workers_make_an_ensemble(run: Run, tmp_path: Path) -> None:
    for name, executor in {"cluster": None, "threads": by_threads}.items():
        run(tmp_path / f"{name}.ome.tif", executor, ensemble=True, crop=Box(0, 0, 96, 64))
    assert content(tmp_path / "cluster.ome.tif") == content(tmp_path / "threads.ome.tif")


def test_workers_write_behind_a_url(run: Run, tmp_path: Path) -> None:
    run(Path(f"file://{tmp_path}/out.ome.zarr"))
    assert run.is_whole(tmp_path / "out.ome.zarr")


def test_blocks_go_out_no_further_than_the_bound_and_in_order(
    run: Run, cluster: Cluster, tmp_path: Path
) -> None:
    out: list[int] = []
    back: list[int] = []

    def noted(
        job: Job, encode: BlockEncoder, todo: Iterator[Block], watch: Stopwatch
    ) -> Generator[BlockResult, None, None]:
        going = (out.append(block.index) or block for block in todo)  # type: ignore[func-returns-value]
        for made in cluster.make(job, encode, going, watch):
            back.append(made.encoded.block.index)
            assert len(out) - len(back) < 8  # 2 workers of one thread, 4 blocks each
            yield made

    run(tmp_path / "out.ome.tif", noted)
    assert out == back == list(range(16))


def test_four_workers_of_which_some_are_killed(folder: Path, tmp_path: Path) -> None:
    with connected("local:4") as cluster:
        run = Run(folder, cluster)

        def kill() -> None:
            os.kill(pids(cluster)[0], signal.SIGKILL)

        for name in ("out.ome.tif", "out.ome.zarr"):
            run(tmp_path / name, at_three=kill)
            assert run.is_whole(tmp_path / name)


def test_a_worker_is_killed_that_has_blocks_in_a_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "_AHEAD", 1)  # so that each thread has many
    rows, put = list[int](), lines.TaskQueue.put

    def noted(line: lines.TaskQueue, blocks: tuple[Block, ...]) -> None:
        rows.append(len(blocks))
        put(line, blocks)

    monkeypatch.setattr(lines.TaskQueue, "put", noted)
    with connected("local:2") as cluster:
        run = Run(folder, cluster)
        run(tmp_path / "out.ome.tif", at_three=lambda: os.kill(pids(cluster)[0], signal.SIGKILL))
    assert max(rows) == 2
    assert run.is_whole(tmp_path / "out.ome.tif")


def test_all_workers_are_killed_and_come_again(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    def kill() -> None:
        for pid in pids(cluster):
            os.kill(pid, signal.SIGKILL)

    run(tmp_path / "out.ome.tif", at_three=kill)
    assert run.is_whole(tmp_path / "out.ome.tif")


def test_a_worker_that_pauses_holds_nobody_up_for_good(
    run: Run, cluster: Cluster, tmp_path: Path
) -> None:
    paused = pids(cluster)[0]

    def pause() -> None:
        os.kill(paused, signal.SIGSTOP)
        threading.Timer(2, os.kill, (paused, signal.SIGCONT)).start()

    run(tmp_path / "out.ome.tif", at_three=pause)
    assert run.is_whole(tmp_path / "out.ome.tif")


def test_what_a_worker_does_not_give_is_made_elsewhere(
    run: Run,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lines, "_PATIENCE_S", 2.0)
    paused = pids(cluster)[0]
    try:
        run(tmp_path / "out.ome.tif", at_three=lambda: os.kill(paused, signal.SIGSTOP))
    finally:
        os.kill(paused, signal.SIGCONT)
    assert run.is_whole(tmp_path / "out.ome.tif")
    assert "does not answer; tried once more elsewhere" in caplog.text


# Poison


@dataclass(frozen=True)
class Deadly:
    """An encoder that notes its tries and ends its worker at one block."""

    encode: BlockEncoder
    notes: Path

    def __call__(self, painted: UpscaledBlock) -> EncodedBlock:
        if painted.block.index == 5:
            with self.notes.open("a") as file:
                file.write("try\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.encode(painted)


def test_a_block_that_kills_its_workers_ends_in_one_line(folder: Path, tmp_path: Path) -> None:
    """On a cluster of its own: dask never restarts a worker that dies while its nanny starts it."""
    notes = tmp_path / "notes"
    with connected("local:2") as cluster:
        run = Run(folder, cluster)

        def deadly(
            job: Job, encode: BlockEncoder, todo: Iterator[Block], watch: Stopwatch
        ) -> Generator[BlockResult, None, None]:
            return cluster.make(job, Deadly(encode, notes), todo, watch)

        died = r"block 5 \(source .*all 3 workers that had it died"
        with pytest.raises(SlidesrError, match=died):
            run(tmp_path / "out.ome.tif", deadly)
        assert len(notes.read_text().splitlines()) <= 3
        run(tmp_path / "out.ome.tif")
        assert run.is_whole(tmp_path / "out.ome.tif")


def test_workers_of_our_own_that_never_come_back_end_the_run(folder: Path, tmp_path: Path) -> None:
    with connected("local:1") as cluster:
        assert cluster._most_alone_s == clusters._START_S
        cluster._most_alone_s = 1.5
        run = Run(folder, cluster)
        with pytest.raises(
            SlidesrError, match=r"all workers died, and none came back\. .* resumes"
        ):
            run(tmp_path / "out.ome.tif", at_three=lambda: retire(cluster))
    with prepared(folder / "slide.tif", tmp_path / "out.ome.tif", options_of(folder)) as job:
        upscale(job)
    assert run.is_whole(tmp_path / "out.ome.tif")


def retire(cluster: Cluster) -> None:
    cluster.client.retire_workers(list(cluster.client.nthreads()), close_workers=True)


def test_a_block_that_cannot_be_read_ends_in_one_line(
    folder: Path, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn.tif"
    camelyon_style(torn, tissue(300, 200, seed=9), mpp=0.5, tile=64)
    break_tile(torn, Box(64, 0, 64, 64))
    told = ["upscale", str(torn), "-o", str(tmp_path / "out.ome.tif"), *choices(folder, cluster)]
    assert command(told) == 1
    said = capsys.readouterr().err
    assert "slidesr: block 0 (source 0,0,256,200) on worker tcp://" in said
    assert said.count("slidesr:") == 1
    assert command([*told, "--on-bad-tile", "fill"]) == 3
    assert "0:64,0,64,64" in capsys.readouterr().out


def choices(folder: Path, cluster: Cluster) -> list[str]:
    told = ["--model", str(folder / "tiny.safetensors"), "--tissue", "all"]
    return [*told, "--precision", "fp32", "--dask", address(cluster)]


def address(cluster: Cluster) -> str:
    return str(cluster.client.scheduler_info()["address"])


def test_another_model_where_the_worker_is_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Job.identity
    monkeypatch.setattr(Job, "identity", lambda job: {**own(job), "model": "another"})
    with pytest.raises(SlidesrError, match=r"worker tcp://\S+: has another model \(here: slidesr"):
        run(tmp_path / "out.ome.tif")


# The driver


def test_a_stopped_and_a_killed_driver_are_gone_on_with(
    run: Run, folder: Path, cluster: Cluster, tmp_path: Path
) -> None:
    output = tmp_path / "out.ome.tif"
    told = [*MAIN, "upscale", str(folder / "slide.tif"), "-o", str(output)]
    told += choices(folder, cluster)
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(told, stderr=-1) as process:
            wait_for(state_of(output), process, newer_than=time.time())
            process.send_signal(number)
            said = process.communicate(timeout=30)[1].decode()
        assert process.returncode == code
        assert "Traceback" not in said
        assert "distributed" not in said
        assert part_of(output).exists()
    assert run(output).resumed_px > 0
    assert run.is_whole(output)


# Who is there


def test_several_devices_are_several_processes(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ome.tif"
    told = ["upscale", str(folder / "slide.tif"), "-o", str(output), "--device", "cpu,cpu"]
    assert command([*told, *choices_without_dask(folder)]) == 0
    assert content(output) == content(folder / "whole.ome.tif")


def choices_without_dask(folder: Path) -> list[str]:
    return ["--model", str(folder / "tiny.safetensors"), "--tissue", "all", "--precision", "fp32"]


def encode_nothing(painted: UpscaledBlock) -> EncodedBlock:
    return EncodedBlock(painted.block, (), None)


def test_each_gpu_has_a_process_that_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seeing = clusters._seeing
    assert [seeing(name) for name in ("cpu", "cuda:0", "cuda:2")] == [
        {},
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "2"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert seeing("cuda:1") == {"CUDA_VISIBLE_DEVICES": "7"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with of_devices(["cpu"], nthreads=3) as cluster:
        assert cluster.threads == 3


def test_a_driver_needs_no_gpu_for_workers_that_have_one(folder: Path, tmp_path: Path) -> None:
    options = replace(options_of(folder), device="cuda", precision="auto")
    model = open_model(options, Engine("cuda", "bf16", 4))
    with prepared(folder / "slide.tif", tmp_path / "out.ome.tif", options, model) as job:
        assert job.model.batch_size == 4
        assert job.tissue_px == 1000 * 800
        assert len(packed(JobSpec.of(job), encode_nothing)) < 10_000


def test_a_cluster_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_START_S", 1)
    scheduler = {"cls": Scheduler, "options": {"port": 0, "dashboard_address": ":0"}}
    with (
        SpecCluster({}, scheduler) as empty,
        pytest.raises(RefusedError, match=r"no worker appeared within 1 s. Start some with `dask"),
        connected(empty.scheduler_address),
    ):
        pass


@pytest.mark.parametrize(
    ("dask", "says"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers"),
        ("nonsense://there", "no scheduler answers"),
        ("local:none", "say how many workers"),
        ("local:0", "say how many workers"),
    ],
)
def test_an_address_of_nobody_is_refused_in_one_line(
    folder: Path, dask: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_ANSWER_S", 1)
        assert command(["upscale", str(folder / "slide.tif"), "--dask", dask]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


# Many slides


def test_slides_of_a_list_go_side_by_side_and_a_bad_one_stops_no_other(
    folder: Path, cluster: Cluster, tmp_path: Path
) -> None:
    for seed, name in enumerate(("a.tif", "b.tif", "c.tif")):
        camelyon_style(tmp_path / name, tissue(300 + 100 * seed, 200, seed=seed), mpp=0.5)
    (tmp_path / "bad.svs").write_text("no slide")
    (tmp_path / "list.csv").write_text("slide,stain\na.tif,HE\nbad.svs,\nb.tif,HE\nc.tif,HE\n")
    alone, out = tmp_path / "alone", tmp_path / "out"
    told = ["upscale", str(tmp_path / "list.csv"), "-o"]
    assert command([*told, str(alone), *choices_without_dask(folder)]) == 2
    assert command([*told, str(out), *choices(folder, cluster)]) == 2
    summary = json.loads((out / "summary.json").read_text())
    assert [Path(slide["input"]).name for slide in summary["slides"]] == [
        *("a.tif", "bad.svs", "b.tif", "c.tif")
    ]
    assert summary["count"] == {"done": 3, "refused": 1}
    for name in ("a", "b", "c"):
        made = f"{name}.x4.ome.tif"
        assert (out / made).read_bytes() == (alone / made).read_bytes()


def test_a_list_without_slides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("name\na.tif\n")
    assert command(["upscale", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out")]) == 2


def test_a_stop_ends_all_slides(folder: Path, cluster: Cluster, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        (tmp_path / name).hardlink_to(folder / "slide.tif")
    told = [sys.executable, "-m", "slidesr", "upscale", str(tmp_path), "-o", str(tmp_path / "out")]
    told += choices(folder, cluster)
    with subprocess.Popen(told, stderr=-1, stdout=-1) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("out/.*.part")):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "the same command resumes from here" in said
    assert "Traceback" not in said


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_blocks_of_a_kind_go_together_and_the_order_stays(tissue: list[bool], most: int) -> None:
    blocks = [Block(index, Box(0, 0, 1, 1), Box(0, 0, 1, 1), ()) for index in range(len(tissue))]
    groups = list(clusters.grouped(blocks, lambda block: tissue[block.index], most))
    assert [block for group in groups for block in group] == blocks
    kinds = [{tissue[block.index] for block in group} for group in groups]
    assert all(len(kind) == 1 for kind in kinds)
    most_of = [most if kind == {True} else 16 for kind in kinds]
    assert all(len(group) <= limit for group, limit in zip(groups, most_of, strict=True))
    for number, (first, second) in enumerate(itertools.pairwise(kinds)):
        assert first != second or len(groups[number]) == most_of[number]
