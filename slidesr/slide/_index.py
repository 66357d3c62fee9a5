"""Slides of many files, whose index names the others: MIRAX, VMS and VMU."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from slidesr.slide._source import unreadable

_MOST_BYTES = 1 << 20  # a real index has some kilobytes
_NAMED_FILE = re.compile(r"^\s*([^=#\[]*(?:file|image)[^=]*?)\s*=\s*(.*?)\s*$", re.I | re.M)


def refuse_names_elsewhere(path: Path, vendor: str | None) -> None:
    """Refuses a slide whose index names a file outside its folder: OpenSlide would open that."""
    if vendor == "mirax":
        index = path.with_suffix("") / "Slidedat.ini"
    elif vendor == "hamamatsu" and path.suffix.lower() in (".vms", ".vmu"):
        index = path
    else:
        return
    with index.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise unreadable(path, f"its index {index.name} is larger than {_MOST_BYTES >> 20} MiB")
    for key, name in _NAMED_FILE.findall(text.decode("latin-1")):
        if _leads_out(name):
            raise unreadable(path, f"its index names a file outside its folder: {key} = {name}")


def _leads_out(name: str) -> bool:
    """
    >>> [_leads_out(name) for name in ("Data0000.dat", "a/b.jpg", "../b", "/etc/b", "c:b")]
    [False, False, True, True, True]
    """
    windows = PureWindowsPath(name)
    return bool(".." in windows.parts or windows.anchor or PurePosixPath(name).is_absolute())
