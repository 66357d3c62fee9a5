"""Kills a training run at random moments and compares its result with an uninterrupted run.

python benchmarks/kill_training.py [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.data import immunohistochemistry

_RECIPE = """
name = "killed"
patches = {patches}
high_um_per_px = [0.25, 0.5]
batch = 2
validate_every = 10
[generator]
scale = 2
window = 4
bicubic_skip = true
channels = 8
blocks = 1
[loss]
adversarial_weight = 1e-3
feature_matching_weight = 1e-2
[critic]
channels = 8
penalty_every = 2
[data]
patch_px = 16
context_px = 4
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--patches", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=0)
    choices = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(folder, choices.patches)
        started = time.monotonic()
        if _train(folder, "alone").wait():
            raise SystemExit("the uninterrupted run failed")
        seconds = time.monotonic() - started
        print(f"uninterrupted: {choices.patches} patches in {seconds:.0f} s", flush=True)
        _kill_repeatedly(folder, choices.kills, seconds, np.random.default_rng(choices.seed))
        if _train(folder, "killed").wait():
            raise SystemExit("the killed run could not be resumed")
        _compare(folder / "alone", folder / "killed")


def _write_inputs(folder: Path, patches: int) -> None:
    section = immunohistochemistry()  # type: ignore[no-untyped-call]
    images = {"data/a/1.png": section[:256, :256], "valid/a/1.png": section[256:432, 256:432]}
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "recipe.toml").write_text(_RECIPE.format(patches=patches))


def _train(folder: Path, out: str) -> subprocess.Popen[bytes]:
    options = ("--data", folder / "data", "--valid", folder / "valid", "-o", folder / out)
    return subprocess.Popen(
        [sys.executable, "-m", "slidesr", "train", str(folder / "recipe.toml"), "--resume"]
        + [str(option) for option in options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill_repeatedly(folder: Path, kills: int, seconds: float, rng: np.random.Generator) -> None:
    """Kills the run after random times, uniform in [0, 2 * `seconds` / `kills`].

    Every other kill waits for the next checkpoint and strikes while it is being written.
    """
    checkpoint = folder / "killed" / "checkpoint.pt"
    part = checkpoint.with_suffix(".part")
    for number in range(1, kills + 1):
        left_over = _written(part)
        run, life = _train(folder, "killed"), rng.uniform(0, 2 * seconds / kills)
        time.sleep(life)
        while number % 2 == 0 and _written(part) in (0, left_over) and run.poll() is None:
            time.sleep(0.0005)
        run.send_signal(signal.SIGKILL)
        if run.wait() != -signal.SIGKILL:
            raise SystemExit(f"the run ended before kill {number}: increase --patches")
        saved = _state(checkpoint.parent)["reached"]["patches"] if checkpoint.exists() else 0
        note = "" if _written(part) in (0, left_over) else ", while saving"
        print(f"kill {number:>2} after {life:5.1f} s: {saved:>5} patches saved{note}", flush=True)


def _written(path: Path) -> int:
    """Modification time in nanoseconds; 0 if the file does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _compare(alone: Path, killed: Path) -> None:
    ours, theirs = _state(alone), _state(killed)
    parts = [name for name, part in ours.items() if isinstance(part, dict) and name != "reached"]
    for name in parts:
        if not _equal(ours[name], theirs[name]):
            raise SystemExit(f"DIFFERENT: {name}")
    weights = "killed.safetensors"
    if _tensors(alone / weights) != _tensors(killed / weights):
        raise SystemExit(f"DIFFERENT: {weights}")
    print(f"equal bit for bit: {', '.join(parts)}, and the tensors of {weights}")


def _state(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return state


def _tensors(path: Path) -> bytes:
    """Reads the tensors without the header, which contains the training time."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


if __name__ == "__main__":
    main()
