"""What a figure was measured on, and the file that keeps it: docs/performance/MACHINE-DEVICE.json.

A file has a section a benchmark, each with its own date and versions; no names of hosts, no paths.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import torch

from slidesr import __version__

_FOLDER = Path(__file__).parents[1] / "docs/performance"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """One with what all benchmarks have: the device, and where the figures are kept."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N [cpu]")
    made.add_argument("--json", type=Path, help="[docs/performance/MACHINE-DEVICE.json]")
    return made


def record(section: str, content: Any, choices: argparse.Namespace) -> None:
    """Replaces the section of the file that `parser`'s choices name, and says where it is."""
    kind = choices.device.partition(":")[0]
    name = torch.cuda.get_device_name(choices.device) if kind == "cuda" else _processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = f"{name} {kind}" if kind == "cuda" else f"{name} {cores} cores {kind}"
    path = choices.json or _FOLDER / f"{slug(words)}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    versions = {
        "slidesr": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    kept["machine"] = {"processor": _processor(), "cores": cores, "device": name}
    kept[section] = {"date": time.strftime("%Y-%m-%d"), **versions, "figures": content}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_finite(kept), indent=1, sort_keys=True) + "\n")
    print(f"\n{section}: kept in {path.name}")


def slug(words: str) -> str:
    """A name for a file.

    >>> slug("AMD EPYC(tm) 2 cores")
    'amd-epyc-tm-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", told.read_text()) if told.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _finite(told: Any) -> Any:
    """JSON has no infinity, such as the PSNR of equal images: null."""
    if isinstance(told, dict):
        return {name: _finite(each) for name, each in told.items()}
    if isinstance(told, list):
        return [_finite(each) for each in told]
    return None if told == math.inf else told
