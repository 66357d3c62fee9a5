"""What a run wrote, or left where it was stopped."""

from __future__ import annotations

from pathlib import Path


def content(path: Path) -> dict[str, bytes]:
    """A file's bytes, or those of all files of a folder; nothing where there is neither."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def state_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.part.state")


def part_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.part")
