"""The checkpoint under every order of blocks, stops, kills and damage: a machine of Hypothesis."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.blocks import Sheet, append, stained
from support.files import content

from slidesr.output.checkpoint import CheckpointTimer
from slidesr.output.compression import Compression
from slidesr.output.format import Format
from slidesr.output.staging import Target
from slidesr.output.writer import SlideWriter, open_writer

SHEET = Sheet(stained(401, 333), Compression("jpeg"))
BLOCKS = list(SHEET.painted())
IDENTITY = {"slide": "a", "model": "b"}


def writer_of(path: Path) -> SlideWriter:
    target = Target(path, SHEET.plan, SHEET.metadata, (243, 240, 238), identity=IDENTITY)
    return open_writer(target, Format(SHEET.compression, ngff_version="0.5"))


@cache
def whole(name: str) -> dict[str, bytes]:
    """What an undisturbed writer gives."""
    with tempfile.TemporaryDirectory() as folder:
        with writer_of(Path(folder) / name) as writer:
            append(SHEET, writer)
            writer.finish()
        return content(Path(folder) / name)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Journal(RuleBasedStateMachine):
    """A writer that is hit by whatever there is; what it publishes is always the same bytes.

    A settled block is a checkpoint at once.
    """

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self._pause = CheckpointTimer._MIN_S, CheckpointTimer._FACTOR
        CheckpointTimer._MIN_S, CheckpointTimer._FACTOR = 0.0, 0
        self._root = Path(tempfile.mkdtemp())
        self._lives = 0
        self.folder = self._root / "0"
        self.folder.mkdir()
        self.writer: SlideWriter | None = None
        self.done = self.durable = 0

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.__exit__()
        shutil.rmtree(self._root)
        CheckpointTimer._MIN_S, CheckpointTimer._FACTOR = self._pause

    @precondition(lambda self: self.writer is None)
    @rule()
    def open(self) -> None:
        self.writer = writer_of(self.folder / self.name)
        self.done = self.writer.resumed
        assert self.done >= self.durable
        self.durable = self.done

    @precondition(lambda self: self.writer is not None and self.done < len(BLOCKS))
    @rule(count=st.integers(1, 5), settles=st.booleans())
    def append(self, count: int, settles: bool) -> None:
        assert self.writer is not None
        for painted in BLOCKS[self.done : self.done + count]:
            self.writer.append(self.writer.encode(painted))
            self.done += 1
            if settles:
                self.writer.settle(self.done)
                self.durable = self.done

    @precondition(lambda self: self.writer is not None)
    @rule()
    def stop(self) -> None:
        assert self.writer is not None
        self.writer.__exit__()
        self.writer = None

    @precondition(lambda self: self.writer is not None)
    @rule()
    def kill(self) -> None:
        """What lies on the disk is all that is left; what was not yet written is lost."""
        self._lives += 1
        left = self._root / str(self._lives)
        shutil.copytree(self.folder, left)
        self.stop()
        self.folder = left

    @precondition(lambda self: self.writer is None and bool(files_of(self.folder)))
    @rule(data=st.data(), cuts=st.booleans())
    def damage(self, data: st.DataObject, cuts: bool) -> None:
        """Cuts off what a run left at any byte, or flips a bit of it."""
        victim = data.draw(st.sampled_from(files_of(self.folder)))
        content = bytearray(victim.read_bytes())
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        if cuts:
            del content[at:]
        elif content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        victim.write_bytes(content)
        self.durable = 0

    @precondition(lambda self: self.writer is not None)
    @rule()
    def finish(self) -> None:
        assert self.writer is not None
        self.append(count=len(BLOCKS), settles=False)
        self.writer.finish()
        self.stop()
        assert [path.name for path in self.folder.iterdir()] == [self.name]
        assert content(self.folder / self.name) == whole(self.name)
        self._lives += 1
        self.folder = self._root / str(self._lives)
        self.folder.mkdir()
        self.done = self.durable = 0

    @invariant()
    def nothing_half_has_the_name(self) -> None:
        assert not (self.folder / self.name).exists()


class TiffJournal(Journal):
    name = "out.ome.tif"


class ZarrJournal(Journal):
    name = "out.ome.zarr"


TestTiffJournal, TestZarrJournal = TiffJournal.TestCase, ZarrJournal.TestCase
TestTiffJournal.settings = TestZarrJournal.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
