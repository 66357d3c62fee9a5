"""Staging: an unfinished output is hidden, locked by one process, and published atomically.

.NAME.part         the staging file or folder
.NAME.part.state   its `OutputCheckpoint`, if any, from which a stopped run resumes

`runtime.names` shortens NAME where it is too long for these.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from slidesr.errors import BusyError, RefusedError, SlidesrError, printable
from slidesr.output.checkpoint import CheckpointTimer, OutputCheckpoint, discard
from slidesr.output.metadata import Metadata
from slidesr.runtime.atomic_files import exchange, sync_folder
from slidesr.runtime.closeable import Closeable
from slidesr.runtime.names import hidden_beside
from slidesr.runtime.paths import as_typed, is_remote, refuse_existing
from slidesr.tiling import TilePlan

_log = logging.getLogger(__name__)
_RESUME = "Fix that and give the same command again: it resumes from here."


@dataclass(frozen=True)
class Target:
    """The output to write; the same for every container.

    A stopped run can be resumed only under the same `identity`: everything that determines the
    bytes, as name -> hash. `needed_bytes` is an estimate for the message when the disk is full.
    """

    path: Path
    plan: TilePlan
    metadata: Metadata
    glass: tuple[int, int, int]
    overwrite: bool = False
    identity: Mapping[str, str] = field(default_factory=dict)
    needed_bytes: int = 0


def identity_of(inputs: Mapping[str, object]) -> dict[str, str]:
    """The `identity` of a target: a hash of each input under a name that users know."""
    return {name: sha256(repr(each).encode()).hexdigest() for name, each in inputs.items()}


class Staging(Closeable):
    """An unfinished output. Its writer calls `settle` whenever it is in a resumable state.

    Closing without `publish` removes it unless there is a checkpoint, from which the next run with
    the same identity resumes. `written_bytes` serves the message when the disk is full.
    """

    def __init__(self, target: Target) -> None:
        self.identity = dict(target.identity)
        self.written_bytes, self._needed_bytes = 0, target.needed_bytes
        self._path, self._overwrite = target.path, target.overwrite
        self._checkpoint: Callable[[], OutputCheckpoint] | None = None
        self._timer = CheckpointTimer()

    def resume(self, matches: Callable[[OutputCheckpoint], bool]) -> OutputCheckpoint | None:
        """The checkpoint to resume from, or None; `matches` compares it with the staged bytes.

        A damaged checkpoint is removed. Raises RefusedError where the stopped run had another
        identity; with `overwrite` its checkpoint is removed too.
        """
        state = self._load()
        if state is not None and not self._overwrite:
            names = self.identity.keys() | state.identity.keys()
            other = [n for n in names if self.identity.get(n) != state.identity.get(n)]
            if other:
                raise RefusedError(
                    f"{as_typed(self._path)}: a run was stopped here with another"
                    f" {', '.join(sorted(other))}. Give the same to resume it, or start over"
                    " with --overwrite."
                )
        if state is not None and state.identity == self.identity:
            if matches(state):
                return state
            _log.warning("%s: what a stopped run left is damaged; starting over", self._path)
        self._discard()
        return None

    def settle(self, checkpoint: Callable[[], OutputCheckpoint]) -> None:
        """States that the output is resumable; `checkpoint` syncs it and returns its checkpoint.

        A checkpoint is saved on closing, and often enough to cost about 1% of the time.
        """
        self._checkpoint = checkpoint
        if self._timer.is_due:
            self._save_checkpoint()

    def unsettle(self) -> None:
        """States that the output is changing and not resumable until the next `settle`."""
        self._checkpoint = None

    def writing(self) -> AbstractContextManager[None]:
        """Turns errors of the disk or store into one line that says how to resume."""
        return writing(self._path, self._needed_bytes - self.written_bytes)

    @abstractmethod
    def publish(self) -> None:
        """Makes the finished output appear under its name, durably, and removes its checkpoint."""

    @abstractmethod
    def _load(self) -> OutputCheckpoint | None: ...

    @abstractmethod
    def _save(self, state: OutputCheckpoint) -> None: ...

    @abstractmethod
    def _discard(self) -> None:
        """Removes the checkpoint."""

    def _save_checkpoint(self) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            with self._timer.measured():
                self._save(checkpoint())

    def _save_last(self) -> None:
        if self._checkpoint is not None:
            with suppress(SlidesrError), self.writing():  # on failure the last checkpoint stands
                self._save_checkpoint()


class StagedOutput(Staging):
    """A staging file or folder, `hidden`, locked by this process.

    Raises RefusedError where the output exists and must not be replaced, or cannot be written, and
    BusyError where another process is writing it.
    """

    def __init__(self, target: Target, *, is_folder: bool = False) -> None:
        super().__init__(target)
        path = target.path
        refuse_existing(path, overwrite=target.overwrite)
        self.hidden, self._state = _hidden(path), _state_of(path)
        self._is_published = False
        self._lock = _locked(self.hidden, path, is_folder=is_folder)

    def publish(self) -> None:
        """Renames the staging file to its name, durably, and removes its checkpoint."""
        self.unsettle()
        with self.writing():
            if self._overwrite and self._path.exists():
                self._replace()
            else:
                self._appear()
            self._is_published = True
            sync_folder(self._path.parent)
        self._discard()

    def close(self) -> None:
        """Keeps a staging file that can be resumed and removes any other."""
        self._save_last()
        if not self._is_published and not self._state.exists():
            _remove(self.hidden)  # while still locked
        os.close(self._lock)

    def _load(self) -> OutputCheckpoint | None:
        return OutputCheckpoint.load(self._state)

    def _save(self, state: OutputCheckpoint) -> None:
        state.save(self._state)

    def _discard(self) -> None:
        discard(self._state)

    def _replace(self) -> None:
        if self.hidden.is_dir():
            self._discard()  # after the exchange the old output is hidden: never resume from it
            exchange(self.hidden, self._path)
            _remove(self.hidden)
        else:
            self.hidden.replace(self._path)

    def _appear(self) -> None:
        """Publishes without replacing an output that appeared in the meantime."""
        try:
            if self.hidden.is_dir():
                _rename_to_new(self.hidden, self._path)
            else:
                _link_to_new(self.hidden, self._path)
        except FileExistsError as error:
            raise RefusedError(
                f"{self._path}: appeared while running. Replace it with --overwrite."
            ) from error


@contextmanager
def writing(path: Path, more_bytes: int = 0) -> Iterator[None]:
    """Turns errors of the disk or store into a SlidesrError of one line that says how to resume.

    `more_bytes` is the estimate of what is still to be written; 0 if unknown.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SlidesrError):
            raise
        if is_remote(path):  # each kind of store raises its own errors
            raise SlidesrError(
                f"{as_typed(path)}: cannot be written: {type(error).__name__}:"
                f" {printable(str(error))}. {_RESUME}"
            ) from error
        if not isinstance(error, OSError):
            raise
        hints = []
        with suppress(OSError):  # the folder itself may be gone
            hints.append(f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free")
        if more_bytes > 0:
            hints.append(f"about {more_bytes / 1e6:.0f} MB more are needed")
        raise SlidesrError(
            f"{path}: cannot be written: {error.strerror or error} ({', '.join(hints)}). {_RESUME}"
        ) from error


def sweep(path: Path) -> None:
    """Cleans up after a run that was killed just after publishing."""
    hidden, state = _hidden(path), _state_of(path)
    if not path.exists():
        return
    if not hidden.exists() or (hidden.is_file() and hidden.samefile(path)):
        discard(state)
        hidden.unlink(missing_ok=True)
    elif hidden.is_dir() and not state.exists():  # the old output, after an exchange
        with suppress(BusyError):
            lock = _locked(hidden, path, is_folder=True)
            _remove(hidden)
            os.close(lock)


def part_bytes(path: Path) -> int:
    """The size of the staging file that a stopped run left for `path`."""
    hidden = _hidden(path)
    files = hidden.rglob("*") if hidden.is_dir() else [hidden]
    return sum(file.stat().st_size for file in files if file.is_file())


def _hidden(path: Path) -> Path:
    return hidden_beside(path, ".part")


def _state_of(path: Path) -> Path:
    return hidden_beside(path, ".part.state")


def _locked(hidden: Path, path: Path, *, is_folder: bool) -> int:
    """A descriptor of the locked staging file; that of a killed run is taken over."""
    try:
        if is_folder:
            hidden.mkdir(exist_ok=True)
        else:
            hidden.touch()
        handle = os.open(hidden, os.O_RDONLY)
    except OSError as error:
        raise RefusedError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.fstat(handle).st_ino == hidden.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:  # locked, or published or removed between opening and locking
        os.close(handle)
        raise BusyError(f"{path}: another process is writing it. Wait for it, or stop it.")
    return handle


def _link_to_new(hidden: Path, path: Path) -> None:
    try:
        path.hardlink_to(hidden)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system
        _rename_to_new(hidden, path)
    else:
        hidden.unlink(missing_ok=True)  # another process may have swept it


def _rename_to_new(hidden: Path, path: Path) -> None:
    if path.exists():
        raise FileExistsError(path)
    hidden.rename(path)


def _remove(hidden: Path) -> None:
    if hidden.is_dir():
        shutil.rmtree(hidden)
    else:
        hidden.unlink(missing_ok=True)
