"""Opens annotation files, GeoJSON or ASAP's XML, gzipped or not, by their first bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.regions.asap import asap_shapes
from slidesr.regions.geojson import geojson_shapes
from slidesr.regions.shapes import Shape, UnusableError
from slidesr.runtime.paths import check_file

_MAX_BYTES = 256 * 2**20  # a million QuPath cells; parsing takes about ten times the memory
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CURE = "Give GeoJSON as QuPath exports it, or XML as ASAP saves it."


def read_shapes(path: Path) -> list[Shape]:
    """The shapes of an annotation file, in its order.

    Raises RefusedError where the file cannot be read, holds more than 256 MiB or is neither format.
    """
    data = _bytes(path).removeprefix(_BYTE_ORDER_MARK).lstrip()
    try:
        return asap_shapes(data) if data.startswith(b"<") else geojson_shapes(data)
    except UnusableError as error:
        raise RefusedError(f"{path}: no annotations: {error}. {_CURE}") from error


def _bytes(path: Path) -> bytes:
    """What a file holds, decompressed; never more than the limit is read."""
    check_file(path)
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(_MAX_BYTES + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise RefusedError(f"{path}: its gzip is damaged. Compress the file again.") from error
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}. {_CURE}") from error
    if len(data) > _MAX_BYTES:
        size = f"larger than {_MAX_BYTES >> 20} MiB{' when decompressed' if packed else ''}"
        raise RefusedError(f"{path}: {size}. Export only the regions to upscale.")
    return data
