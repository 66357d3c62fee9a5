"""Broken TIFF files: a sound one of each reader's, with a few bytes changed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from support.slides import pyramid, tissue

Files = Iterator[tuple[str, bytes]]

WIDTH, HEIGHT, TILE = 300, 260, 128
IMAGE = tissue(WIDTH, HEIGHT, seed=5)
BYTE, ASCII, SHORT, LONG, RATIONAL, FLOAT, DOUBLE, LONG8 = 1, 2, 3, 4, 5, 11, 12, 16


def written(*, ome: bool = False, **options: Any) -> bytes:
    """A TIFF in memory, as tifffile writes it."""
    file = BytesIO()
    with tifffile.TiffWriter(file, ome=ome, bigtiff=options.pop("bigtiff", False)) as tiff:
        tiff.write(options.pop("image", IMAGE), photometric="rgb", **options)
    return file.getvalue()


def tiled(**options: Any) -> bytes:
    """One that OpenSlide opens."""
    return written(**({"tile": (TILE, TILE), "compression": "jpeg", "metadata": None} | options))


def with_subifds(**options: Any) -> bytes:
    """One that tifffile opens, since OpenSlide does not see its lower levels."""
    file = BytesIO()
    first, *rest = pyramid(IMAGE)
    how: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(file, ome=True) as tiff:
        tiff.write(first, subifds=len(rest), metadata={"axes": "YXS"}, **(how | options))
        for level in rest:
            tiff.write(level, subfiletype=1, **(how | options))
    return file.getvalue()


def bases() -> dict[str, bytes]:
    """A sound file for OpenSlide, for tifffile, and for Pillow, all of classic little endian."""
    return {
        "openslide": tiled(),
        "tifffile": with_subifds(),
        "pillow": written(rowsperstrip=20, metadata=None),
    }


def entry_at(data: bytes, tag: int, directory: int = 0) -> int | None:
    """Where the entry of a tag lies in a classic little-endian TIFF."""
    at = struct.unpack_from("<I", data, 4)[0]
    for _ in range(directory):
        at = struct.unpack_from("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0])[0]
    for index in range(struct.unpack_from("<H", data, at)[0]):
        if struct.unpack_from("<H", data, at + 2 + 12 * index)[0] == tag:
            return int(at + 2 + 12 * index)
    return None


def patched(
    data: bytes, tag: int, *, kind: int | None = None, count: int | None = None, value: Any = None
) -> bytes | None:
    """With another type, count or value (or place of the values) of a tag, if it is there."""
    at = entry_at(data, tag)
    if at is None:
        return None
    old_kind, old_count = struct.unpack_from("<HI", data, at + 2)
    if kind is None and value is not None and value > 0xFFFF:
        kind = LONG
    kind, count = kind or old_kind, old_count if count is None else count
    raw = data[at + 8 : at + 12]
    if value is not None:
        raw = struct.pack("<HH", value, 0) if kind == SHORT else struct.pack("<I", value)
    return data[: at + 2] + struct.pack("<HI", kind, count) + raw + data[at + 12 :]


CHANGES: dict[str, dict[str, Any]] = {
    "width-0": {"tag": 256, "kind": LONG, "value": 0},
    "width-2^31": {"tag": 256, "kind": LONG, "value": 2**31},
    "width-2^32": {"tag": 256, "kind": LONG, "value": 2**32 - 1},
    "width-2^20": {"tag": 256, "kind": LONG, "value": 2**20},
    "width-is-text": {"tag": 256, "kind": ASCII, "count": 4},
    "width-of-no-type": {"tag": 256, "kind": 99},
    "height-0": {"tag": 257, "kind": LONG, "value": 0},
    "height-2^30": {"tag": 257, "kind": LONG, "value": 2**30},
    "bits-count-2^32": {"tag": 258, "count": 2**32 - 1},
    "bits-elsewhere": {"tag": 258, "value": 2**32 - 4},
    "compression-9999": {"tag": 259, "value": 9999},
    "compression-lzw": {"tag": 259, "value": 5},
    "compression-jpeg": {"tag": 259, "value": 7},
    "compression-old-jpeg": {"tag": 259, "value": 6},
    "compression-deflate": {"tag": 259, "value": 8},
    "compression-zstd": {"tag": 259, "value": 50000},
    "compression-webp": {"tag": 259, "value": 50001},
    "compression-jpegxl": {"tag": 259, "value": 50002},
    "compression-jpeg2000": {"tag": 259, "value": 33003},
    "compression-lerc": {"tag": 259, "value": 34887},
    "compression-jbig": {"tag": 259, "value": 34661},
    "compression-fax4": {"tag": 259, "value": 4},
    "photometric-palette": {"tag": 262, "value": 3},
    "photometric-cielab": {"tag": 262, "value": 8},
    "photometric-9999": {"tag": 262, "value": 9999},
    "samples-0": {"tag": 277, "value": 0},
    "samples-65535": {"tag": 277, "value": 65535},
    "samples-1": {"tag": 277, "value": 1},
    "planar": {"tag": 284, "value": 2},
    "planar-9": {"tag": 284, "value": 9},
    "strip-rows-0": {"tag": 278, "kind": LONG, "value": 0},
    "strip-rows-2^32": {"tag": 278, "kind": LONG, "value": 2**32 - 1},
    "strips-elsewhere": {"tag": 273, "value": 2**32 - 8},
    "strips-count-2^32": {"tag": 273, "count": 2**32 - 1},
    "strip-bytes-2^31": {"tag": 279, "kind": LONG, "count": 1, "value": 2**31},
    "tile-width-0": {"tag": 322, "kind": LONG, "value": 0},
    "tile-width-1": {"tag": 322, "kind": LONG, "value": 1},
    "tile-width-2^31": {"tag": 322, "kind": LONG, "value": 2**31},
    "tile-width-2^32": {"tag": 322, "kind": LONG, "value": 2**32 - 16},
    "tile-width-32768": {"tag": 322, "kind": LONG, "value": 32768},
    "tile-width-100": {"tag": 322, "kind": LONG, "value": 100},
    "tile-height-0": {"tag": 323, "kind": LONG, "value": 0},
    "tile-height-2^31": {"tag": 323, "kind": LONG, "value": 2**31},
    "tiles-elsewhere": {"tag": 324, "value": 2**32 - 8},
    "tiles-count-1": {"tag": 324, "count": 1},
    "tiles-count-0": {"tag": 324, "count": 0},
    "tiles-count-2^32": {"tag": 324, "count": 2**32 - 1},
    "tiles-count-2^28": {"tag": 324, "count": 2**28},
    "tiles-are-floats": {"tag": 324, "kind": FLOAT},
    "tile-bytes-count-1": {"tag": 325, "count": 1, "value": 2**31},
    "tile-bytes-elsewhere": {"tag": 325, "value": 8},
    "subifds-count-2^32": {"tag": 330, "count": 2**32 - 1},
    "subifds-elsewhere": {"tag": 330, "count": 1, "value": 2**32 - 2},
    "subifd-is-the-header": {"tag": 330, "count": 1, "value": 0},
    "subifd-is-itself": {"tag": 330, "count": 1, "value": 8},
    "tables-elsewhere": {"tag": 347, "value": 2**32 - 8},
    "tables-count-2^32": {"tag": 347, "count": 2**32 - 1},
    "description-count-2^32": {"tag": 270, "count": 2**32 - 1},
    "sampling-9": {"tag": 530, "kind": SHORT, "count": 1, "value": 9},
}


def changed_tags() -> Files:
    for base, data in bases().items():
        for name, change in CHANGES.items():
            broken = patched(data, **change)
            if broken is not None and broken != data:
                yield f"{base}-{name}.tif", broken


def truncated() -> Files:
    for base, data in bases().items():
        for share in (0.0005, 0.005, 0.05, 0.3, 0.6, 0.9, 0.999):
            yield f"{base}-cut-at-{share}.tif", data[: max(3, int(len(data) * share))]


def flipped() -> Files:
    """Bits flipped in the head, where directories lie, and in the tiles."""
    rng = np.random.default_rng(7)
    for base, data in bases().items():
        for part, (start, end) in {"head": (0, 600), "tiles": (600, len(data))}.items():
            for number in range(8):
                broken = bytearray(data)
                for at in rng.integers(start, end, 4 + 12 * (part == "tiles")):
                    broken[at] ^= 1 << int(rng.integers(8))
                yield f"{base}-flipped-{part}-{number}.tif", bytes(broken)


def chains() -> Files:
    """Directories that lead in circles, are endless, or lie nowhere."""
    for base, data in bases().items():
        first = struct.unpack_from("<I", data, 4)[0]
        end = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
        for name, place in (("itself", first), ("nowhere", 2**32 - 4), ("header", 0 + 1)):
            yield (
                f"{base}-next-is-{name}.tif",
                data[:end] + struct.pack("<I", place) + data[end + 4 :],
            )
        yield f"{base}-first-is-nowhere.tif", data[:4] + struct.pack("<I", 2**31) + data[8:]
        yield f"{base}-entries-65535.tif", data[:first] + b"\xff\xff" + data[first + 2 :]
    count = 200_000
    links = (struct.pack("<HI", 0, 8 + 6 * (i + 1)) for i in range(count))
    yield "chain-of-200000.tif", b"II*\0\x08\0\0\0" + b"".join(links)
    yield "big-of-nothing.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63)
    yield "big-of-offset-size-99.tif", b"II+\0\x63\0\0\0" + struct.pack("<Q", 16)


def kinds() -> Files:
    """Sound by the letter, but not what slidesr reads."""
    big_endian = BytesIO()
    with tifffile.TiffWriter(big_endian, byteorder=">") as tiff:
        tiff.write(IMAGE, tile=(TILE, TILE), photometric="rgb", compression="jpeg", metadata=None)
    yield "big-endian.tif", big_endian.getvalue()
    yield "planar.tif", written(image=np.moveaxis(IMAGE, 2, 0), planarconfig="separate")
    for dtype in ("uint16", "float32", "float64", "int8"):
        yield f"{dtype}.tif", tiled(image=IMAGE.astype(dtype), compression=None)
        yield f"{dtype}.ome.tif", with_subifds_of(IMAGE.astype(dtype))
    yield "no-pixels-of-a-stack.ome.tif", with_subifds_of(np.stack([IMAGE] * 3))
    twelve = imagecodecs.jpeg8_encode(IMAGE[:TILE, :TILE].astype(np.uint16), bitspersample=12)
    yield "12-bit-jpeg.tif", with_tiles(bytes(twelve))
    for base, data in (("openslide", tiled()), ("tifffile", with_subifds())):
        yield f"{base}-sparse.tif", with_places(data, 0, 0)
        yield f"{base}-all-tiles-are-the-header.tif", with_places(data, 0, 8)


def with_subifds_of(image: Any) -> bytes:
    return written(
        image=image, ome=True, tile=(TILE, TILE), metadata={"axes": "ZYXS"[-image.ndim :]}
    )


def with_places(data: bytes, offset: int, count: int) -> bytes:
    """All tiles of the first directory at one place."""
    for tag, value in ((324, offset), (325, count)):
        at = entry_at(data, tag)
        assert at is not None
        kind, number, place = struct.unpack_from("<HII", data, at + 2)
        form = "<" + {SHORT: "H", LONG: "I", LONG8: "Q"}[kind] * number
        new = struct.pack(form, *[value] * number)
        data = data[:place] + new + data[place + len(new) :]
    return data


def with_tiles(stored: bytes, base: bytes | None = None, compression: int = 7) -> bytes:
    """Every tile of a sound file is `stored`."""
    data = base or tiled()
    whole = patched(with_places(data, len(data), len(stored)), 259, value=compression)
    assert whole is not None
    return whole + stored


def bombs() -> Files:
    """Small tiles that decode to gigabytes, for OpenSlide and for tifffile."""
    raw = {
        8: zlib.compress(bytes(1 << 28), 9),
        5: bytes(imagecodecs.lzw_encode(bytes(1 << 26))),
        50000: bytes(imagecodecs.zstd_encode(bytes(1 << 30), 1)),
        34925: bytes(imagecodecs.lzma_encode(bytes(1 << 28), 1)),
        32773: b"\x81\x00" * 100_000,
    }
    square = np.zeros((8_000, 8_000, 3), np.uint8)
    raw[7] = bytes(imagecodecs.jpeg8_encode(square, level=1))
    raw[50001] = bytes(imagecodecs.webp_encode(square))
    raw[50002] = bytes(imagecodecs.jpegxl_encode(square, effort=1))
    raw[33003] = raw[33005] = raw[34712] = bytes(
        imagecodecs.jpeg2k_encode(square, level=0, codecformat="j2k")
    )
    for number, stored in raw.items():
        yield f"openslide-bomb-{number}.tif", with_tiles(stored, compression=number)
        yield f"tifffile-bomb-{number}.ome.tif", with_tiles(stored, with_subifds(), number)
    claims = bytearray(imagecodecs.jpeg8_encode(IMAGE[:TILE, :TILE]))
    at = claims.index(b"\xff\xc0")
    claims[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    scans = progressive_of(3000)
    for name, stored in {
        "claims": bytes(claims),
        "scans": scans,
        "noise": b"\xff\xd8" * 99,
    }.items():
        yield f"openslide-jpeg-{name}.tif", with_tiles(stored)
        yield f"tifffile-jpeg-{name}.ome.tif", with_tiles(stored, with_subifds(compression="jpeg"))


def progressive_of(scans: int, side: int | None = None) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(IMAGE[:TILE, :TILE]).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    data = data[:last] + data[last:-2] * scans + b"\xff\xd9"
    if side:
        at = data.index(b"\xff\xc2")
        data = data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]
    return data


def large_tiles() -> Files:
    """Tiles as large as they are said to be."""
    for side, codec in ((32768, "jpeg"), (16384, "zstd"), (16384, "deflate"), (8192, "zstd")):
        one = np.zeros((16, 16, 3), np.uint8)
        data = tiled(image=one, tile=(16, 16), compression=codec)
        for tag in (256, 257, 322, 323) if side > 8192 else (322, 323):
            data = patched(data, tag, kind=LONG, value=side) or data
        if codec == "jpeg":
            stored = bytes(imagecodecs.jpeg8_encode(np.zeros((side // 8, side // 8, 3), np.uint8)))
        else:
            encode = {"zstd": imagecodecs.zstd_encode, "deflate": imagecodecs.zlib_encode}[codec]
            stored = bytes(encode(bytes(side * side * 3)))
        at = entry_at(data, 324)
        assert at is not None
        data = patched(data, 324, kind=LONG, value=len(data)) or data
        data = patched(data, 325, kind=LONG, value=len(stored)) or data
        yield f"tile-{side}-{codec}.tif", data + stored
