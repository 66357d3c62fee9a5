"""Several processes: two train as one does, and what they cannot share is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training import RECIPE, run_alone, sources_in, write_toml
from torch import Tensor

from slidesr.errors import RefusedError
from slidesr.model.weights import read_spec
from slidesr.nets.generator import Generator
from slidesr.train.distributed import World
from slidesr.train.loop import train
from slidesr.train.recipe import OptimizerRecipe


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    sources = sources_in(tmp_path)
    with pytest.raises(RefusedError, match="a batch of 2") as caught:
        train(RECIPE, sources, World(0, 3, torch.device("cpu")), lambda now: None)
    assert "\n" not in str(caught.value)
    assert not sources.out.exists()


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    sources = sources_in(tmp_path, side_px=164)
    optimizer = OptimizerRecipe(learning_rate=1e-3, warmup=0, ema=0.5)
    recipe = replace(RECIPE, batch=4, patches=16, optimizer=optimizer)
    two = trained_by_two(write_toml(tmp_path / "recipe.toml", recipe), sources.data, sources.valid)
    run_alone(recipe, replace(sources, out=tmp_path / "one"))
    one = weights_in(tmp_path / "one")
    torch.manual_seed(recipe.seed)
    untrained = flat(Generator(recipe.generator).state_dict())
    apart, moved = (two - one).abs(), (one - untrained).abs()
    assert float(moved.mean()) > 1e-3
    # Where a gradient is next to nothing, rounding it in bf16 may turn its sign, and Adam's step.
    assert float(apart.mean()) < 2e-5
    assert float((apart < 1e-4).float().mean()) > 0.98


def test_two_processes_train_a_chain(tmp_path: Path) -> None:
    """The second run of both starts from the file that the first process writes."""
    sources = sources_in(tmp_path, side_px=164)
    first = replace(RECIPE, name="first", batch=4, patches=8, validate_every=8)
    start = write_toml(tmp_path / "first.toml", first)
    last = write_toml(tmp_path / "recipe.toml", replace(RECIPE, batch=4, patches=16))
    trained_by_two(last, sources.data, sources.valid, "--start", start)
    made, before = (
        read_spec(tmp_path / "two" / name).stages
        for name in ("tiny.safetensors", "first/first.safetensors")
    )
    assert made[:-1] == before
    assert [(stage.name, stage.patches) for stage in made] == [("first", 8), ("tiny", 16)]
    assert str(tmp_path) not in str(made)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in Linux's /proc only")
def test_no_thread_outlives_the_group(tmp_path: Path) -> None:
    """Gloo's threads, left to the end of the interpreter, abort a process now and then."""
    script = tmp_path / "step.py"
    script.write_text(
        "from pathlib import Path\n"
        "import torch\n"
        "from slidesr.train.distributed import joined_processes\n"
        "def threads():\n"
        "    return [path.read_text() for path in Path('/proc/self/task').glob('*/comm')]\n"
        "with joined_processes() as world:\n"
        "    layer = torch.nn.Linear(2, 2)\n"
        "    layer(torch.ones(1, 2)).sum().backward()\n"
        "    world.average_gradients(layer)\n"
        "    torch.optim.AdamW(layer.parameters()).step()\n"
        "    during = sum('gloo' in name for name in threads())\n"
        "print(during > 0, sum('gloo' in name for name in threads()))\n"
    )
    assert torchrun(script).split() == ["True", "0"] * 2


def trained_by_two(recipe: Path, data: Path, valid: Path, *more: str | Path) -> Tensor:
    """The generator's weights after a run of two processes on the CPU."""
    out = recipe.parent / "two"
    options: list[str | Path] = ["--data", data, "--valid", valid, "-o", out, *more]
    told = torchrun("-m", "--", "slidesr", "train", recipe, *options)
    assert told.splitlines() == [str(out / "tiny.safetensors")]
    return weights_in(out)


def torchrun(*command: str | Path) -> str:
    """What two processes on the CPU print to standard output."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = subprocess.run(
        [sys.executable, "-m", *launcher, *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def weights_in(out: Path) -> Tensor:
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["reached"]["patches"] == 16
    return flat(saved["generator"])


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights.reshape(-1) for weights in state.values()])
