"""What comes with slidesr: files beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shelf(installed: str, checkout: str) -> Path:
    """The folder of one kind of files: within the package, or within the checkout."""
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def on_shelf_or_file(name_or_path: str, folder: Path, suffix: str) -> Path | None:
    """The file of that name on the shelf, or the file at that path, or None."""
    shelved = folder / f"{name_or_path}{suffix}"
    if shelved.is_file() and "/" not in name_or_path:
        return shelved
    path = Path(name_or_path)
    return path if path.is_file() else None
