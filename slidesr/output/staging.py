"""An output that is not whole yet: hidden beside its name, one process's own, published at once.

.NAME.part         what is written so far, a file or a folder
.NAME.part.state   a `OutputCheckpoint` of it, if there is one: what a stopped run goes on from
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
from slidesr.output.checkpoint import OutputCheckpoint, Pause, discard
from slidesr.output.metadata import Metadata
from slidesr.runtime.atomic_files import exchange, sync_folder
from slidesr.runtime.closeable import Closeable
from slidesr.runtime.paths import as_typed, is_remote, refuse_existing
from slidesr.tiling import TilePlan

_log = logging.getLogger(__name__)
_GO_ON = "Mend that and give the same command again: it goes on from here."


@dataclass(frozen=True)
class Target:
    """What is to be made, and where; the same for every container.

    Whoever goes on with a stopped run must bring the same `identity`: what decides the bytes, its
    name -> its hash. `needed_bytes` is a guess that is told when the disk is full.
    """

    path: Path
    plan: TilePlan
    metadata: Metadata
    glass: tuple[int, int, int]
    overwrite: bool = False
    identity: Mapping[str, str] = field(default_factory=dict)
    needed_bytes: int = 0


def identity_of(told: Mapping[str, object]) -> dict[str, str]:
    """The `identity` of a target: all that decides its bytes, hashed by a name that users know."""
    return {name: sha256(repr(each).encode()).hexdigest() for name, each in told.items()}


class Unfinished(Closeable):
    """An output that is not whole yet. What makes it `settle`s what can be gone on with.

    Leaving without `publish` removes it, unless there is a checkpoint: then the next one of the
    same identity goes on from there. `written_bytes` are there: told when the disk is full.
    """

    def __init__(self, target: Target) -> None:
        self.identity = dict(target.identity)
        self.written_bytes, self._needed_bytes = 0, target.needed_bytes
        self._path, self._overwrite = target.path, target.overwrite
        self._moment: Callable[[], OutputCheckpoint] | None = None
        self._pause = Pause()

    def resumed(self, is_there: Callable[[OutputCheckpoint], bool]) -> OutputCheckpoint | None:
        """The checkpoint to go on from, if all it tells `is_there`; one of no use is removed.

        Raises RefusedError where the part was begun under another identity; with `overwrite` that
        is dropped.
        """
        state = self._load()
        if state is not None and not self._overwrite:
            names = self.identity.keys() | state.identity.keys()
            other = [n for n in names if self.identity.get(n) != state.identity.get(n)]
            if other:
                raise RefusedError(
                    f"{as_typed(self._path)}: a run was stopped here with another"
                    f" {', '.join(sorted(other))}. Give the same to go on with it, or begin anew"
                    " with --overwrite."
                )
        if state is not None and state.identity == self.identity:
            if is_there(state):
                return state
            _log.warning("%s: what a stopped run left is damaged; starting over", self._path)
        self._discard()
        return None

    def settle(self, moment: Callable[[], OutputCheckpoint]) -> None:
        """What is there can be gone on with: `moment` makes it durable and tells it.

        It is saved so often that it costs a hundredth of the time, and when the part is closed.
        """
        self._moment = moment
        if self._pause.is_over:
            self._save_moment()

    def unsettle(self) -> None:
        """What is there changes: it cannot be gone on with until it is settled again."""
        self._moment = None

    def writing(self) -> AbstractContextManager[None]:
        """What the system refuses inside becomes one line that says how to go on."""
        return writing(self._path, self._needed_bytes - self.written_bytes)

    @abstractmethod
    def publish(self) -> None:
        """Gives the output its name, whole and durable, and drops its checkpoint."""

    @abstractmethod
    def _load(self) -> OutputCheckpoint | None: ...

    @abstractmethod
    def _save(self, state: OutputCheckpoint) -> None: ...

    @abstractmethod
    def _discard(self) -> None:
        """Removes the checkpoint."""

    def _save_moment(self) -> None:
        moment, self._moment = self._moment, None
        if moment is not None:
            with self._pause.measured():
                self._save(moment())

    def _save_last(self) -> None:
        if self._moment is not None:
            with suppress(SlidesrError), self.writing():  # else the last checkpoint stands
                self._save_moment()


class StagedOutput(Unfinished):
    """The unfinished output of one process; `hidden` is where it is written.

    Raises RefusedError where the output exists and may not be replaced, or cannot be written;
    BusyError where another process writes it.
    """

    def __init__(self, target: Target, *, is_folder: bool = False) -> None:
        super().__init__(target)
        path = target.path
        refuse_existing(path, overwrite=target.overwrite)
        self.hidden, self._state = _hidden(path), _state_of(path)
        self._is_published = False
        self._lock = _locked(self.hidden, path, is_folder=is_folder)

    def publish(self) -> None:
        """Gives the part its name, whole and durable, and drops its checkpoint."""
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
        """Keeps what can be gone on with, and removes the rest."""
        self._save_last()
        if not self._is_published and not self._state.exists():
            _remove(self.hidden)  # while it is still locked
        os.close(self._lock)

    def _load(self) -> OutputCheckpoint | None:
        return OutputCheckpoint.load(self._state)

    def _save(self, state: OutputCheckpoint) -> None:
        state.save(self._state)

    def _discard(self) -> None:
        discard(self._state)

    def _replace(self) -> None:
        if self.hidden.is_dir():
            self._discard()  # what is hidden after the exchange is not to be gone on with
            exchange(self.hidden, self._path)
            _remove(self.hidden)
        else:
            self.hidden.replace(self._path)

    def _appear(self) -> None:
        """Never takes the place of what came there in the meantime."""
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
    """What the system refuses inside becomes one line that says how to go on.

    About `more_bytes` are still needed, if that is known.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SlidesrError):
            raise
        if is_remote(path):  # each kind of store has errors of its own
            raise SlidesrError(
                f"{as_typed(path)}: cannot be written: {type(error).__name__}:"
                f" {printable(str(error))}. {_GO_ON}"
            ) from error
        if not isinstance(error, OSError):
            raise
        told = []
        with suppress(OSError):  # the folder itself may be gone
            told.append(f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free")
        if more_bytes > 0:
            told.append(f"about {more_bytes / 1e6:.0f} MB more are needed")
        raise SlidesrError(
            f"{path}: cannot be written: {error.strerror or error} ({', '.join(told)}). {_GO_ON}"
        ) from error


def sweep(path: Path) -> None:
    """Removes what a run left that was killed just after it published."""
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
    """What a stopped run has left of the output at `path`, in bytes."""
    hidden = _hidden(path)
    files = hidden.rglob("*") if hidden.is_dir() else [hidden]
    return sum(file.stat().st_size for file in files if file.is_file())


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _state_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.state")


def _locked(hidden: Path, path: Path, *, is_folder: bool) -> int:
    """A handle of the part, locked; what a killed run left behind is taken over."""
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
