"""Stores benchmark results with machine and versions in docs/performance/MACHINE-DEVICE.json.

Each file has one section per benchmark with its own date and versions, and no host names or paths.
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
    """Creates an argument parser with the common options: device and result file."""
    arguments = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N [cpu]")
    arguments.add_argument("--json", type=Path, help="[docs/performance/MACHINE-DEVICE.json]")
    return arguments


def record(section: str, content: Any, choices: argparse.Namespace) -> None:
    """Replaces a section of the result file selected by `choices`, and prints its name."""
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
    print(f"\n{section}: saved in {path.name}")


def slug(words: str) -> str:
    """Converts text to a file name.

    >>> slug("AMD EPYC(tm) 2 cores")
    'amd-epyc-tm-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _finite(value: Any) -> Any:
    """Replaces infinity (the PSNR of identical images), which JSON lacks, by null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if value == math.inf else value
