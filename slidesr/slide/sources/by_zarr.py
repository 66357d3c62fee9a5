"""OME-Zarr stores (NGFF 0.1 to 0.5): folders, zip files, and URLs that fsspec supports."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.errors import ContainsArrayError
from zarr.storage import FsspecStore, LocalStore, ZipStore

from slidesr.errors import RefusedError, SlidesrError, printable
from slidesr.geometry import Box, Pixels, Size
from slidesr.imaging.window import Window, WindowChoice
from slidesr.runtime.paths import as_typed, is_remote
from slidesr.slide._checks import check_sane
from slidesr.slide._metadata import number
from slidesr.slide.sources.ngff.channels import channels_of
from slidesr.slide.sources.ngff.images import Chosen, choose_image
from slidesr.slide.sources.ngff.metadata import UnfitError
from slidesr.slide.sources.ngff.multiscale import check_planes, pixel_size
from slidesr.slide.sources.source import (
    WHITE,
    About,
    AboveWindowError,
    chosen_window,
    levels_from_sizes,
    over_background,
    refuse_above,
    refuse_window,
    unreadable,
    unreadable_box,
)

_MOST_SAMPLES = 1 << 27  # looked at for the automatic window
_MOST_CHUNKS = 1024


def metadata_crc(path: Path) -> int:
    """A CRC of a store's metadata; chunks are not read."""
    with _refusing(path), ExitStack() as stack:
        chosen = _opened(path, stack)
        arrays = [array.metadata.to_dict() for array in chosen.image.levels]
        documents = chosen.choice, chosen.group.attrs.asdict(), arrays
        return zlib.crc32(repr(documents).encode())


class ZarrSource:
    """The image of a store: RGB or grey with 8 bits, or with 16 through a window.

    An automatic window is that of the largest sample in the coarsest level. A chunk that is missing
    shows the fill value: writers leave out those that hold nothing else.
    """

    def __init__(self, path: Path, window: WindowChoice = None) -> None:
        self._path, self._open = path, ExitStack()
        with _refusing(path), ExitStack() as undo:
            chosen = _opened(path, undo)
            self._image = chosen.image
            check_planes(self._image)
            self._channels = channels_of(chosen.metadata, self._image.channel_count)
            self._is_automatic = window == "auto"
            self.about = self._about(chosen)
            self.about = replace(self.about, window=self._chosen_window(window))
            self._open = undo.pop_all()

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside the level.

        Raises SlidesrError for a broken chunk, and for a sample above an automatic window.
        """
        samples = self._samples(level, box)
        planes = np.stack([samples[..., at] for at in self._channels.rgb], axis=-1)
        window = self.about.window
        if window is not None:
            if self._is_automatic:
                self._refuse_above(window, planes, level, box)
            return window.to_8_bit(planes)
        if self._channels.alpha is None:
            return planes
        alpha = samples[..., self._channels.alpha]
        return over_background(Image.fromarray(np.dstack([planes, alpha])), WHITE)

    def close(self) -> None:
        """Closes a zip file; other stores open files on each read."""
        self._open.close()

    def _samples(self, level: int, box: Box) -> NDArray[Any]:
        """All channels of a box: u8 or u16[h, w, c] in the byte order of the store."""
        rows, columns = box.slices
        index = {"y": rows, "x": columns, "c": slice(None)}
        axes = self._image.axes
        try:
            found = np.asarray(self._image.levels[level][tuple(index.get(n, 0) for n in axes)])
        except MemoryError:  # a chunk that decodes to gigabytes: the sandbox must see it
            raise
        except Exception as error:  # from zarr, codecs and stores
            raise unreadable_box(self._path, level, box, error) from error
        kept = [name for name in axes if name in index]
        if "c" not in kept:
            found, kept = found[..., np.newaxis], [*kept, "c"]
        return found.transpose([kept.index(name) for name in "yxc"])

    def _about(self, chosen: Chosen) -> About:
        image, attributes = chosen.image, chosen.group.attrs.asdict()
        chunks = [Size(math.prod(array.chunks), 1) for array in image.levels]
        check_sane(self._path, image.sizes, chunks)
        y, x = image.axes.index("y"), image.axes.index("x")
        tiles = [Size(array.chunks[x], array.chunks[y]) for array in image.levels]
        ours = attributes.get("slidesr")
        own: Mapping[str, Any] = ours if isinstance(ours, dict) else {}
        return About(
            vendor="ome-zarr",
            levels=levels_from_sizes(image.sizes, tiles),
            mpp=pixel_size(self._path, image),
            magnification=number(str(own.get("magnification"))),
            icc_profile=_decoded(own.get("icc_profile")),
            provenance=_strings(own.get("provenance")),
            choice=replace(
                chosen.choice,
                conversions=self._channels.conversions,
                left_out=chosen.choice.left_out + self._channels.left_out,
            ),
        )

    def _chosen_window(self, choice: WindowChoice) -> Window | None:
        if self._image.levels[0].dtype.itemsize == 1:
            refuse_window(self._path, choice)
            return None
        if self._channels.alpha is not None:
            raise unreadable(self._path, "its samples have 16 bits and alpha")
        return chosen_window(self._path, choice, self._largest_sample)

    def _largest_sample(self) -> int:
        """The largest in the coarsest level, or in chunks spread over it if it is a large one."""
        level = len(self._image.levels) - 1
        array = self._image.levels[level]
        count = math.prod(
            -(-array.shape[at] // array.chunks[at]) for at in map(self._image.axes.index, "yx")
        )
        most = min(count, _MOST_CHUNKS, max(1, _MOST_SAMPLES // math.prod(array.chunks)))
        step = (count - 1) / max(1, most - 1)
        boxes = [self._chunk(level, round(at * step)) for at in range(most)]
        return max(self._brightest(level, box) for box in boxes)

    def _brightest(self, level: int, box: Box) -> int:
        """The largest sample of a box; 0 where it is broken, as reading checks each sample."""
        try:
            return int(self._samples(level, box)[..., list(self._channels.rgb)].max())
        except SlidesrError:
            return 0

    def _chunk(self, level: int, index: int) -> Box:
        """A chunk's place in the level, counted row by row."""
        size, array = self.about.levels[level].size, self._image.levels[level]
        tile = Size(*(array.chunks[self._image.axes.index(name)] for name in "xy"))
        down, right = divmod(index, -(-size.width // tile.width))
        return Box(right * tile.width, down * tile.height, tile.width, tile.height).clipped(
            size.box
        )

    def _refuse_above(self, window: Window, planes: NDArray[Any], level: int, box: Box) -> None:
        try:
            refuse_above(window, planes)
        except AboveWindowError as error:
            raise unreadable_box(self._path, level, box, error) from error


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what a store, its codecs and its metadata raise into RefusedError."""
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except UnfitError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # from zarr, codecs, stores, and arbitrary metadata
        raise unreadable(path, f"{type(error).__name__}: {error}") from error


def _opened(path: Path, stack: ExitStack) -> Chosen:
    """The image of a store, which `stack` closes."""
    store = _store(path)
    try:
        root = zarr.open_group(store, mode="r", use_consolidated=False)
    except ContainsArrayError as error:
        raise UnfitError("it is a bare array, not an image of OME-Zarr") from error
    except FileNotFoundError as error:
        where = "at the top of the zip" if path.is_file() else "there"
        raise UnfitError(f"no group of Zarr is {where}") from error
    stack.callback(store.close)
    return choose_image(path, root)


def _store(path: Path) -> LocalStore | ZipStore | FsspecStore:
    if is_remote(path):
        return _remote(as_typed(path), path)
    return ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)


def _remote(url: str, path: Path) -> FsspecStore:
    try:
        return FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        raise RefusedError(
            f"{path}: {printable(str(error))}. Remote stores need: pip install 'slidesr[remote]'"
        ) from error


def _decoded(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:  # not base64, or not even ASCII
        return None


def _strings(value: object) -> dict[str, str]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {str(key): value for key, value in pairs if isinstance(value, str)}
