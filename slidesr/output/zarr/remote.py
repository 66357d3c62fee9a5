"""An OME-Zarr behind a URL while it is written: in its own place, without what makes it an image.

There a name cannot be given at once to what was written elsewhere. So arrays and chunks lie where
they belong, and the group's attributes come last: until then no reader finds an image. The
checkpoint is an object among them.
"""

from __future__ import annotations

import io
import logging
from contextlib import suppress

from slidesr.errors import RefusedError, printable
from slidesr.output.checkpoint import OutputCheckpoint
from slidesr.output.staging import Target, Unfinished
from slidesr.output.zarr.chunk_storage import Bucket
from slidesr.runtime.paths import as_typed, output_exists

_log = logging.getLogger(__name__)

STATE = ".slidesr.state"
_OPENS_IT, _IS_IMAGE = (".zattrs", "zarr.json"), b'"multiscales"'


class RemoteStagedOutput(Unfinished):
    """The unfinished output behind a URL; `place` is where it is written.

    Nothing keeps two runs apart. Raises RefusedError where the output exists and may not be
    replaced, or where the store does not answer.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.place = Bucket(as_typed(target.path))
        self._is_published = False
        try:
            exists = any(_IS_IMAGE in (self.place.read(key) or b"") for key in _OPENS_IT)
        except ImportError as error:
            raise RefusedError(
                f"{self.place.url}: {printable(str(error))}. Stores elsewhere need:"
                " pip install 'slidesr[remote]', and s3fs, gcsfs or adlfs"
            ) from error
        except Exception as error:  # each kind of store has errors of its own
            raise RefusedError(
                f"{self.place.url}: does not answer: {type(error).__name__}:"
                f" {printable(str(error))}"
            ) from error
        if not exists:
            return
        if not target.overwrite:
            self._discard()  # a kill may have left it behind
            raise output_exists(self.place.url)
        _log.warning("%s: what is there is removed before the new one is made", self.place.url)
        with self.writing():
            self.place.clear()

    def publish(self) -> None:
        """Drops the checkpoint; the writer has put the group's metadata there."""
        self.unsettle()
        self._is_published = True
        with self.writing():
            self._discard()

    def close(self) -> None:
        """Keeps what can be gone on with, and removes the rest."""
        self._save_last()
        with suppress(Exception):  # what does not answer any more keeps what it has
            if not self._is_published and self.place.read(STATE) is None:
                self.place.clear()

    def _load(self) -> OutputCheckpoint | None:
        state = self.place.read(STATE)
        return None if state is None else OutputCheckpoint.read(io.BytesIO(state))

    def _save(self, state: OutputCheckpoint) -> None:
        file = io.BytesIO()
        state.write(file)
        with self.writing():
            self.place.write(STATE, file.getvalue())

    def _discard(self) -> None:
        if self.place.read(STATE) is not None:
            self.place.remove([STATE])
