"""What this machine has for slidesr: packages, processors, memory, readers, models.

Packages are imported by name and guarded, since one that does not import is a finding here. So
nothing that needs torch or OpenSlide is imported at the top.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidesr import __version__
from slidesr.errors import SlidesrError, reason
from slidesr.pipeline.tile_size import cache_file

if TYPE_CHECKING:
    from slidesr.verify.findings import Finding

PACKAGES = {
    "torch": ("torch", "2.6", "2.14"),
    "openslide-python": ("openslide", "1.4", "1.4"),
    "tifffile": ("tifffile", "2026.2.24", "2026.3"),
    "zarr": ("zarr", "3.1", "3.1"),
    "imagecodecs": ("imagecodecs", "2024.9.22", "2026.3"),
    "numpy": ("numpy", "2.0", "2.4"),
}
"""What slidesr cannot work without: the module, and the oldest and newest version tested."""

_OPTIONAL = {"dask": ("distributed", "2025.1", "2026.8")}
_PYTHON = ("3.11", "3.13")
_LEAST_MEMORY = 2 * 10**9
_LEAST_DISK = 10**9


@dataclass(frozen=True)
class Package:
    """A library: its version, or why it does not import; a missing optional one has neither."""

    name: str
    version: str = ""
    problem: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Processor:
    """The CPU, and what torch may use of it; without torch it is not known to have either."""

    name: str
    cores: int
    has_bf16: bool = False
    has_amx: bool = False


@dataclass(frozen=True)
class Gpu:
    """A CUDA device as torch numbers them."""

    device: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Environment:
    """All facts, what keeps slidesr from working, and what it was not tested with."""

    slidesr: str
    python: str
    system: str
    packages: tuple[Package, ...]
    processor: Processor
    gpus: tuple[Gpu, ...]
    memory_bytes: int
    free_disk_bytes: int
    readers: tuple[Finding, ...]
    models: tuple[str, ...]
    cache: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def examine(folder: Path) -> Environment:
    """Gathers the facts about this machine, with the free disk where `folder` lies.

    Takes some seconds: it imports torch, and lets every reader open a small file.
    """
    packages = tuple(_packages())
    torch = None if _problem(packages, "torch") else import_module("torch")
    models, problems = _models(packages)
    problems = [*(each.problem for each in packages if each.problem), *problems]
    readers = () if problems else _readers()
    memory, disk = _memory_bytes(), shutil.disk_usage(folder).free
    warnings = [*(each.warning for each in packages if each.warning), *_warnings(memory, disk)]
    warnings += [f"{each.by}: {each.detail}" for each in readers if each.outcome == "failed"]
    return Environment(
        slidesr=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        processor=_processor(torch),
        gpus=_gpus(torch),
        memory_bytes=memory,
        free_disk_bytes=disk,
        readers=readers,
        models=models,
        cache=cache_file().parent,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _packages() -> Iterator[Package]:
    for name, (module, *versions) in PACKAGES.items():
        yield _package(name, module, *versions)
    for name, (module, *versions) in _OPTIONAL.items():
        found = _package(name, module, *versions)
        broken = found.problem if found.version else ""
        yield Package(name, warning=broken) if found.problem else found
    openslide = sys.modules.get("openslide")
    if openslide:
        yield Package("OpenSlide", str(openslide.__library_version__))


def _package(name: str, module: str, oldest: str, newest: str) -> Package:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Package(name, problem=f"{name} is not installed. Get it with: pip install {name}")
    try:
        import_module(module)
    except Exception as error:  # a broken library raises whatever it likes
        return Package(name, found, f"{name} {found} does not import: {reason(error)}")
    return Package(name, found, warning=untested(name, found, oldest, newest))


def untested(name: str, found: str, oldest: str, newest: str) -> str:
    """What is to be said of a version outside of a range, to the precision of each border.

    >>> untested("torch", "2.14.1+cpu", "2.6", "2.14"), untested("torch", "3.0", "2.6", "2.14")
    ('', 'torch 3.0 is newer than 2.14, the newest that slidesr was tested with')
    """
    numbers, first, last = (
        [int(part) for part in re.findall(r"\d+", text.partition("+")[0])]
        for text in (found, oldest, newest)
    )
    if numbers[: len(first)] < first:
        return f"{name} {found} is older than {oldest}, the oldest that slidesr works with"
    if numbers[: len(last)] > last:
        return f"{name} {found} is newer than {newest}, the newest that slidesr was tested with"
    return ""


def _problem(packages: tuple[Package, ...], name: str) -> str:
    return next(each.problem for each in packages if each.name == name)


def _processor(torch: Any) -> Processor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch is None:
        return Processor(platform.processor() or platform.machine(), cores or 1)
    device = import_module("slidesr.model.device")
    return Processor(device.processor(), cores or 1, device.has_bf16(), device.has_amx())


def _gpus(torch: Any) -> tuple[Gpu, ...]:
    if torch is None or not torch.cuda.is_available():
        return ()
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(
        Gpu(f"cuda:{number}", each.name, each.total_memory) for number, each in enumerate(found)
    )


def _memory_bytes() -> int:
    """Of the machine, or of the container where that has less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # cgroup v2; "max" where there is none
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(memory, int(text)) if text.isdigit() else memory


def _readers() -> tuple[Finding, ...]:
    found: list[Finding] = import_module("slidesr.verify.readers.installed").try_readers()
    return tuple(found)


def _models(packages: tuple[Package, ...]) -> tuple[tuple[str, ...], list[str]]:
    if any(each.problem for each in packages):
        return (), []
    try:
        found = import_module("slidesr.model.weights").list_models()
    except SlidesrError as error:
        return (), [str(error)]
    names = tuple(spec.name for _, spec in found)
    return names, [] if names else ["the shipped models are missing. Install slidesr anew."]


def _warnings(memory: int, disk: int) -> Iterator[str]:
    python = untested("Python", platform.python_version(), *_PYTHON)
    if python:
        yield python
    if sys.platform not in ("linux", "darwin"):
        yield f"{sys.platform}: slidesr is for Linux and macOS"
    if memory < _LEAST_MEMORY:
        yield f"{memory / 1e9:.1f} GB of memory: upscaling a large slide takes about 1.2 GB"
    if disk < _LEAST_DISK:
        yield f"{disk / 1e9:.1f} GB of disk are free here; a slide at x4 may need more"
    if not os.access(_there(cache_file().parent), os.W_OK):
        yield f"{cache_file().parent}: not writable; tile sizes are measured in every run"


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())
