"""Storage of an OME-Zarr while it is written: a local folder, or a bucket behind a URL."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from slidesr.runtime.atomic_files import sync_folder

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


class ChunkStorage(Protocol):
    """Files by key, such as 0/0/3/7. Can be pickled for other processes."""

    def store(self) -> Store: ...

    def read(self, key: str) -> bytes | None:
        """The content of a file, or None if it does not exist."""

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every file."""

    def remove(self, keys: Iterable[str]) -> None: ...

    def clear(self) -> None:
        """Removes all files."""

    def matches(self, fingerprints: Mapping[str, int]) -> bool:
        """Whether each file has its fingerprint, as far as the storage can tell."""

    def sync(self, keys: Iterable[str]) -> None:
        """Makes files survive a power loss."""


def fingerprint(data: bytes) -> int:
    """CRC-32 in the low 32 bits, size in bytes above; 0 stands for no file."""
    return zlib.crc32(data) | len(data) << 32


def bytes_from_fingerprint(value: int) -> int:
    return value >> 32


@dataclass(frozen=True)
class Folder:
    """Files below `root`; `matches` reads all of them."""

    root: Path

    def store(self) -> LocalStore:
        return LocalStore(self.root)

    def read(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        files = (Path(name) / file for name, _, files in os.walk(self.root) for file in files)
        return {file.relative_to(self.root).as_posix(): file.stat().st_size for file in files}

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.root / key).unlink()

    def clear(self) -> None:
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def matches(self, fingerprints: Mapping[str, int]) -> bool:
        return all(
            fingerprint(self.read(key) or b"") == value for key, value in fingerprints.items()
        )

    def sync(self, keys: Iterable[str]) -> None:
        for key in keys:
            with (self.root / key).open("rb") as file:
                os.fsync(file.fileno())

    def sync_folders(self) -> None:
        for folder, _, _ in os.walk(self.root):
            sync_folder(Path(folder))


@dataclass(frozen=True)
class Bucket:
    """Objects behind a URL that fsspec supports; they are written whole, so sizes suffice."""

    url: str

    def store(self) -> FsspecStore:
        return FsspecStore.from_url(self.url, storage_options=self._options)

    def read(self, key: str) -> bytes | None:
        try:
            found: bytes = self._fs.cat_file(f"{self._root}/{key}")
        except FileNotFoundError:
            return None
        return found

    def write(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{key}", data)

    def sizes(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        found = self._fs.find(self._root, detail=True)
        return {name[len(self._root) + 1 :]: info["size"] for name, info in found.items()}

    def remove(self, keys: Iterable[str]) -> None:
        names = [f"{self._root}/{key}" for key in keys]
        if names:
            self._fs.rm(names)

    def clear(self) -> None:
        self.remove(self.sizes())

    def matches(self, fingerprints: Mapping[str, int]) -> bool:
        sizes = self.sizes()
        return all(
            sizes.get(key) == bytes_from_fingerprint(value) for key, value in fingerprints.items()
        )

    def sync(self, keys: Iterable[str]) -> None:
        """Does nothing: an object is durable once written."""

    @property
    def _options(self) -> dict[str, Any]:
        return {"auto_mkdir": True} if self.url.startswith("file:") else {}

    @cached_property
    def _fs_and_root(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(self.url, **self._options)
        return fs, str(root).rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._fs_and_root[0]

    @property
    def _root(self) -> str:
        return self._fs_and_root[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.url,)


class FingerprintingStore(WrapperStore[Store]):
    """A store that records the fingerprint of each file written to it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.fingerprints: dict[str, int] = {}

    async def set(self, key: str, value: Buffer) -> None:
        self.fingerprints[key] = fingerprint(value.to_bytes())
        await super().set(key, value)
