"""The checkpoint under every order of blocks, stops, kills and damage: a machine of Hypothesis."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_ome_tiff import Sheet, append, stained

from slidesr.output.checkpoint import Pause
from slidesr.output.compression import Compression
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.part import Target

SHEET = Sheet(stained(401, 333), Compression("jpeg"))
BLOCKS = list(SHEET.painted())
IDENTITY = {"slide": "a", "model": "b"}
NAME = "out.ome.tif"


def _whole() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        with writer_in(Path(name)) as writer:
            append(SHEET, writer)
            writer.finish()
        return (Path(name) / NAME).read_bytes()


def writer_in(folder: Path) -> OmeTiffWriter:
    target = Target(folder / NAME, SHEET.plan, SHEET.metadata, (243, 240, 238), identity=IDENTITY)
    return OmeTiffWriter(target, SHEET.compression)


class Journal(RuleBasedStateMachine):
    """A writer that is hit by whatever there is; what it publishes is always the same bytes.

    A settled block is a checkpoint at once.
    """

    whole = b""

    def __init__(self) -> None:
        super().__init__()
        self._pause = Pause._LEAST_S, Pause._TIMES
        Pause._LEAST_S, Pause._TIMES = 0.0, 0
        type(self).whole = self.whole or _whole()
        self._root = Path(tempfile.mkdtemp())
        self._lives = 0
        self.folder = self._root / "0"
        self.folder.mkdir()
        self.writer: OmeTiffWriter | None = None
        self.done = self.durable = 0

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
        shutil.rmtree(self._root)
        Pause._LEAST_S, Pause._TIMES = self._pause

    @precondition(lambda self: self.writer is None)
    @rule()
    def open(self) -> None:
        self.writer = writer_in(self.folder)
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
        self.writer.close()
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

    @precondition(lambda self: self.writer is None and any(self.folder.iterdir()))
    @rule(data=st.data(), cuts=st.booleans())
    def damage(self, data: st.DataObject, cuts: bool) -> None:
        """Cuts off what a run left at any byte, or flips a bit of it."""
        victim = data.draw(st.sampled_from(sorted(self.folder.iterdir())))
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
        assert [path.name for path in self.folder.iterdir()] == [NAME]
        assert (self.folder / NAME).read_bytes() == self.whole
        (self.folder / NAME).unlink()
        self.done = self.durable = 0

    @invariant()
    def nothing_half_has_the_name(self) -> None:
        assert not (self.folder / NAME).exists()


TestJournal = Journal.TestCase
TestJournal.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
