"""Files shipped with slidesr: inside the package when installed, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def bundled_folder(installed: str, checkout: str) -> Path:
    """The folder of one kind of shipped files: `installed` in the package, else `checkout`."""
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def bundled_or_file(name_or_path: str, folder: Path, suffix: str) -> Path | None:
    """The shipped file of that name in `folder`, else the file at that path, else None."""
    bundled = folder / f"{name_or_path}{suffix}"
    if bundled.is_file() and "/" not in name_or_path:
        return bundled
    path = Path(name_or_path)
    return path if path.is_file() else None
