"""Staging of an OME-Zarr behind a URL: in its final place, but without the image metadata.

An object store cannot rename a whole tree atomically. So arrays and chunks are written where they
belong, and the group's attributes come last: until then no reader finds an image. The checkpoint is
an object among them.
"""

from __future__ import annotations

import io
import logging
from contextlib import suppress

from slidesr.errors import RefusedError, printable
from slidesr.output.checkpoint import OutputCheckpoint
from slidesr.output.staging import Staging, Target
from slidesr.output.zarr.chunk_storage import Bucket
from slidesr.runtime.paths import as_typed, output_exists

_log = logging.getLogger(__name__)

STATE = ".slidesr.state"
# The files that hold a group's attributes, in Zarr v2 and v3, and what an image has in them.
_ATTRIBUTE_FILES, _IMAGE_KEY = (".zattrs", "zarr.json"), b'"multiscales"'


class RemoteStagedOutput(Staging):
    """The unfinished output behind a URL, in `bucket`.

    There is no lock against a second run. Raises RefusedError where the output exists and must not
    be replaced, or where the store does not answer.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.bucket = Bucket(as_typed(target.path))
        self._is_published = False
        try:
            exists = any(_IMAGE_KEY in (self.bucket.read(key) or b"") for key in _ATTRIBUTE_FILES)
        except ImportError as error:
            raise RefusedError(
                f"{self.bucket.url}: {printable(str(error))}. Remote stores need:"
                " pip install 'slidesr[remote]', and s3fs, gcsfs or adlfs"
            ) from error
        except Exception as error:  # each kind of store raises its own errors
            raise RefusedError(
                f"{self.bucket.url}: does not answer: {type(error).__name__}:"
                f" {printable(str(error))}"
            ) from error
        if not exists:
            return
        if not target.overwrite:
            self._discard()  # a killed run may have left it
            raise output_exists(self.bucket.url)
        _log.warning("%s: the old store is removed before the new one is written", self.bucket.url)
        with self.writing():
            self.bucket.clear()

    def publish(self) -> None:
        """Removes the checkpoint; the writer has written the group's metadata already."""
        self.unsettle()
        self._is_published = True
        with self.writing():
            self._discard()

    def close(self) -> None:
        """Keeps a store that can be resumed and removes any other."""
        self._save_last()
        with suppress(Exception):  # a store that no longer answers keeps its files
            if not self._is_published and self.bucket.read(STATE) is None:
                self.bucket.clear()

    def _load(self) -> OutputCheckpoint | None:
        state = self.bucket.read(STATE)
        return None if state is None else OutputCheckpoint.read(io.BytesIO(state))

    def _save(self, state: OutputCheckpoint) -> None:
        file = io.BytesIO()
        state.write(file)
        with self.writing():
            self.bucket.write(STATE, file.getvalue())

    def _discard(self) -> None:
        if self.bucket.read(STATE) is not None:
            self.bucket.remove([STATE])
