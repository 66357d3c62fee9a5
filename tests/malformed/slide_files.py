"""Slides of other kinds: OME-XML, Aperio, MIRAX, Hamamatsu, DICOM, and plain images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from malformed.tiff_files import (
    ASCII,
    HEIGHT,
    IMAGE,
    TILE,
    WIDTH,
    Files,
    patched,
    progressive_of,
    tiled,
    with_subifds,
)

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_BILLION = (
    '<!DOCTYPE OME [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]>"
)


def _xml(size: str = "", body: str = "", head: str = "", width: object = WIDTH) -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<OME xmlns="{_OME}"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" Type="uint8" DimensionOrder="XYCZT" SizeX="{width}"'
        f' SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="1" Interleaved="true" {size}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="3"/>{body or "<TiffData/>"}'
        "</Pixels></Image></OME>"
    )


def ome_xml() -> Files:
    """OME-XML that is broken, absurd, or names other files."""
    elsewhere = '<TiffData IFD="0"><UUID FileName="{}">urn:uuid:1</UUID></TiffData>'
    texts = {
        "names-passwd": _xml(body=elsewhere.format("/etc/passwd")),
        "names-above": _xml(body=elsewhere.format("../../../../etc/hostname")),
        "names-a-device": _xml(body=elsewhere.format("/dev/zero")),
        "billion-laughs": _xml(head=_BILLION, size='PhysicalSizeX="&j;"'),
        "external": _xml(
            head='<!DOCTYPE OME [<!ENTITY x SYSTEM "file:///etc/passwd">]>', body="&x;<TiffData/>"
        ),
        "external-dtd": _xml(head='<!DOCTYPE OME SYSTEM "http://127.0.0.1:9/a.dtd">'),
        "size-0": _xml(width=0),
        "size-negative": _xml(width=-5),
        "size-2^62": _xml(width=2**62),
        "size-is-text": _xml(width="wide"),
        "not-closed": _xml()[:-20],
        "deep": _xml(body="<A>" * 3000 + "</A>" * 3000),
        "no-pixels": f'<?xml version="1.0"?><OME xmlns="{_OME}"><Image ID="Image:0"/></OME>',
        "many-planes": _xml(body='<TiffData IFD="0" PlaneCount="99999999"/>'),
        "bad-utf8": _xml(size='Name="\udcff\udcfe"'),
    }
    sizes = ("0", "-0.5", "INF", "NaN", "1e308", "1e-308", "\x1b[31m")
    texts |= {
        f"pixel-{i}": _xml(f'PhysicalSizeX="{s}" PhysicalSizeY="{s}"') for i, s in enumerate(sizes)
    }
    for name, text in texts.items():
        stored = text.encode("utf-8", "surrogateescape")
        for base, data in (
            ("openslide", tiled(description=stored)),
            ("tifffile", _described(stored)),
        ):
            yield f"{base}-{name}.ome.tif", data


def _described(text: bytes) -> bytes:
    """One for tifffile, with this instead of its description."""
    data = with_subifds()
    placed = patched(data, 270, kind=ASCII, count=len(text) + 1, value=len(data))
    assert placed is not None
    return placed + text + b"\0"


def aperio() -> Files:
    head = "Aperio Image Library v11.2.1\n{w}x{h} [0,0 {w}x{h}] (128x128) JPEG/RGB Q=30"
    facts = {
        "plain": "MPP = 0.5|AppMag = 20",
        "mpp-0": "MPP = 0|AppMag = 20",
        "mpp-negative": "MPP = -0.5|AppMag = -20",
        "mpp-inf": "MPP = inf|AppMag = inf",
        "mpp-nan": "MPP = nan|AppMag = nan",
        "mpp-huge": "MPP = 1e308|AppMag = 1e308",
        "mpp-tiny": "MPP = 1e-300|AppMag = 5e-324",
        "control-characters": "User = \x1b]0;owned\x07\x1b[31m|MPP = 0.5\r",
        "markup": "User = [bold red][link=http://a]x[/link]|[/nonsense] = [/]|MPP = 0.5",
        "a-million-fields": "|".join(f"K{i} = {i}" for i in range(100_000)),
        "no-values": "|||||= = =|MPP|",
    }
    for name, text in facts.items():
        description = f"{head.format(w=WIDTH, h=HEIGHT)}|{text}"
        yield f"{name}.svs", tiled(description=description.encode("latin-1"), rowsperstrip=None)
    good = tiled(description=head.format(w=WIDTH, h=HEIGHT).encode())
    yield "jpeg2000-garbage.svs", patched(good, 259, value=33003) or b""
    yield "jpeg2000-rgb-garbage.svs", patched(good, 259, value=33005) or b""
    yield "cut.svs", good[: len(good) // 2]


def resolutions() -> Files:
    """Absurd pixel sizes in the tags."""
    for name, (above, below) in {
        "0": (0, 1), "no-number": (0, 0), "inf": (1, 0),
        "huge": (2**32 - 1, 1), "tiny": (1, 2**32 - 1),
    }.items():  # fmt: skip
        data = tiled(resolution=(1, 1), resolutionunit="CENTIMETER")
        at = data.index(struct.pack("<HHI", 282, 5, 1))
        place = struct.unpack_from("<I", data, at + 8)[0]
        ratio = struct.pack("<II", above, below)
        yield f"resolution-{name}.tif", data[:place] + ratio + data[place + 8 :]


def level_orders() -> Files:
    """Levels that grow, repeat, or have another shape."""
    sides = {
        "grow": [(100, 100), (300, 300)],
        "repeat": [(300, 300)] * 4,
        "another-shape": [(300, 300), (150, 16)],
        "forty": [(300 - i, 300 - i) for i in range(40)],
        "one-pixel": [(300, 300), (1, 1)],
    }
    for name, sizes in sides.items():
        file = BytesIO()
        with tifffile.TiffWriter(file) as tiff:
            for index, (width, height) in enumerate(sizes):
                level = np.array(Image.fromarray(IMAGE).resize((width, height)))
                tiff.write(
                    level, tile=(TILE, TILE), photometric="rgb", compression="jpeg",
                    subfiletype=min(index, 1), metadata=None,
                )  # fmt: skip
        yield f"levels-{name}.tif", file.getvalue()


def ndpi_like() -> Files:
    """Hamamatsu's own tags in a TIFF that is not Hamamatsu's."""
    for name, value in (("zoom", 20.0), ("nan", float("nan")), ("negative", -1.0)):
        extra = [(65421, FLOAT_TYPE, 1, value, True), (65420, "I", 1, 1, True)]
        yield f"ndpi-{name}.ndpi", tiled(extratags=extra)
        yield f"ndpi-strips-{name}.ndpi", tiled(tile=None, rowsperstrip=HEIGHT, extratags=extra)


FLOAT_TYPE = "f"


def dicom() -> Files:
    head = bytes(128) + b"DICM"
    meta = b"\x02\x00\x00\x00UL\x04\x00"
    yield "only-a-head.dcm", head
    yield "length-2^32.dcm", head + meta + b"\xff\xff\xff\xff" + b"\x02\x00\x10\x00UI\xff\xff"
    yield "noise.dcm", head + np.random.default_rng(1).bytes(5000)
    yield (
        "endless-sequences.dcm",
        head + meta + bytes(4) + b"\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff" * 4000,
    )
    real = Path(__file__).parents[3] / "shared/data/slides/camelyon_jpeg.dcm"
    if real.is_file():
        data = real.read_bytes()
        for share in (0.01, 0.3, 0.99):
            yield f"cut-at-{share}.dcm", data[: int(len(data) * share)]
        rng = np.random.default_rng(2)
        for number in range(6):
            broken = bytearray(data)
            for at in rng.integers(128, 6000, 12):
                broken[at] ^= 1 << int(rng.integers(8))
            yield f"flipped-{number}.dcm", bytes(broken)


def _png(
    width: int, height: int, kind: int = 2, lines: int | None = None, extra: bytes = b""
) -> bytes:
    """A PNG of zeros whose head claims what it likes; `lines` are stored."""
    samples = {0: 1, 2: 3, 3: 1, 6: 4}[kind]
    packer = zlib.compressobj(9)
    row = bytes(1 + width * samples)
    packed = b"".join(packer.compress(row) for _ in range(height if lines is None else lines))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    chunks = [
        *parts,
        *([(b"zTXt", extra)] if extra else []),
        (b"IDAT", packed + packer.flush()),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def images() -> Files:
    yield "60000.png", _png(60_000, 60_000, lines=500)
    yield "2^31.png", _png(2**31 - 1, 1, lines=0)
    yield "0.png", _png(0, 0)
    yield "lines-missing.png", _png(4000, 4000, lines=10)
    yield "palette-missing.png", _png(30, 30, kind=3)
    yield "text-bomb.png", _png(30, 30, extra=b"a\0\0" + zlib.compress(bytes(1 << 27), 9))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF"):
        file = BytesIO()
        Image.fromarray(IMAGE).save(file, kind)
        data = file.getvalue()
        for share in (0.01, 0.5, 0.95):
            yield f"cut-at-{share}.{kind.lower()}", data[: int(len(data) * share) or 1]
        rng = np.random.default_rng(3)
        for number in range(3):
            broken = bytearray(data)
            for at in rng.integers(10, min(len(data), 400), 6):
                broken[at] ^= 1 << int(rng.integers(8))
            yield f"flipped-{number}.{kind.lower()}", bytes(broken)
    yield "claims.ppm", b"P6 100000 100000 255\n" + bytes(99)
    yield "claims-2^62.ppm", b"P6 4611686018427387904 1 255\n" + bytes(99)
    yield "negative.ppm", b"P6 -5 -5 255\n" + bytes(99)
    yield (
        "claims.bmp",
        b"BM"
        + struct.pack(
            "<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 1, 1, 0, 0
        ),
    )
    yield "scans.jpg", progressive_of(3000)
    yield "scans-16000.jpg", progressive_of(3000, side=16_000)
    yield "scans-few-16000.jpg", progressive_of(3, side=16_000)
    yield "runs-ghostscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"
    yield "text.svs", b"not a slide"
    yield "zeros.tif", bytes(5000)
    yield "noise.svs", np.random.default_rng(4).bytes(5000)
    yield "html.tif", b"<html><body>404</body></html>"
    yield "pickle.tif", b"\x80\x04\x95\x00"
    yield "sqlite.mrxs", b"SQLite format 3\0" + bytes(100)
    yield "zip.czi", b"PK\x03\x04" + bytes(100)


def indexed(folder: Path) -> Iterator[tuple[str, Path]]:
    """Slides of many files, whose index leads out of their folder. OpenSlide's own names."""
    outside = {
        "above": "../../secret.jpg",
        "absolute": "/etc/passwd",
        "below": "..\\..\\secret.jpg",
    }
    for name, file in outside.items():
        slide = folder / f"mirax-{name}.mrxs"
        slide.write_bytes(b"\xff\xd8\xff" + bytes(30))
        inside = slide.with_suffix("")
        inside.mkdir()
        (inside / "Slidedat.ini").write_text(_MIRAX.format(index=file, data=file))
        yield "INPUT", slide
        for kind, section in (("vms", "Virtual"), ("vmu", "Uncompressed Virtual")):
            path = folder / f"{kind}-{name}.{kind}"
            path.write_text(
                f"[{section} Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\n"
                f"ImageFile={file}\nMapFile={file}\nMacroImage={file}\nOptimisationFile={file}\n"
                "PixelWidth=100\nPixelHeight=100\nPhysicalWidth=1\nPhysicalHeight=1\n"
                "SourceLens=20\nBitsPerPixel=36\nPixelOrder=RGB\n"
            )
            yield "INPUT", path
    for name, text in {
        "empty": "",
        "noise": "[GENERAL]\n" + "a" * 99,
        "long": "[A]\n" * 999_999,
    }.items():
        slide = folder / f"mirax-{name}.mrxs"
        slide.write_bytes(b"\xff\xd8\xff" + bytes(30))
        slide.with_suffix("").mkdir()
        (slide.with_suffix("") / "Slidedat.ini").write_text(text)
        yield "INPUT", slide


_MIRAX = """[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = 0
IMAGENUMBER_X = 2
IMAGENUMBER_Y = 2
OBJECTIVE_MAGNIFICATION = 20
CameraImageDivisionsPerSide = 1
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = {index}
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0_SECTION = LAYER_0_LEVEL_0_SECTION
[DATAFILE]
FILE_COUNT = 1
FILE_0 = {data}
[LAYER_0_LEVEL_0_SECTION]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = 0.5
MICROMETER_PER_PIXEL_Y = 0.5
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = 100
DIGITIZER_HEIGHT = 100
IMAGE_FORMAT = JPEG
IMAGE_CONCAT_FACTOR = 0
"""
