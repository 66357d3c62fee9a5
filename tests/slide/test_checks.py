"""What no real slide says of itself is refused unread, and no tile grows beyond its size."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from malformed.slide_files import indexed
from malformed.tiff_files import (
    LONG,
    entry_at,
    patched,
    progressive_of,
    tiled,
    with_places,
    with_subifds,
    with_tiles,
)
from PIL import Image
from support.slides import camelyon_style, tissue

from slidesr.errors import RefusedError, SlidesrError
from slidesr.geometry import Box, Size
from slidesr.runtime.paths import check_file
from slidesr.slide import open_slide
from slidesr.slide._checks import check_sane, refuse_names_elsewhere
from slidesr.slide.sources.by_tifffile import TiffSource


def saved(folder: Path, data: bytes | None, name: str = "a.tif") -> Path:
    assert data is not None
    (folder / name).write_bytes(data)
    return folder / name


# Levels


def sides(*widths: int) -> list[Size]:
    return [Size(width, width * 3 // 4) for width in widths]


@pytest.mark.parametrize(
    "sizes",
    [
        sides(100_000),
        sides(100_000, 50_000, 25_000, 12_500),
        sides(100_000, 25_000, 6_250),
        [Size(300, 250), Size(75, 62), Size(2, 1)],
        [Size(100_000, 3), Size(50_000, 2), Size(25_000, 1)],
    ],
)
def test_real_pyramids_pass(tmp_path: Path, sizes: list[Size]) -> None:
    path = saved(tmp_path, b"no TIFF")
    check_sane(path, sizes, [Size(256, 256)])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (sides(100, 200), "does not fit below"),
        (sides(100, 100), "does not fit below"),
        ([Size(1000, 1000), Size(900, 100)], "does not fit below"),
        (sides(*range(400, 300, -1)), "100 levels"),
        (sides(2**25), "larger than any real slide"),
        (sides(2**22), "larger than any real slide"),
    ],
)
def test_absurd_pyramids_are_refused(tmp_path: Path, sizes: list[Size], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        check_sane(saved(tmp_path, b"no TIFF"), sizes, [])


def test_a_tiff_cannot_hold_more_tiles_than_their_places_take(tmp_path: Path) -> None:
    """OpenSlide opens it and reads holes."""
    path = saved(tmp_path, patched(tiled(), 256, kind=LONG, value=2**22))
    with pytest.raises(RefusedError, match=r"cannot hold the 98304 tiles of 4194304 x 260 px"):
        open_slide(path)


# Tiles


def test_holes_are_background_and_not_black(tmp_path: Path) -> None:
    for data in (with_places(tiled(), 0, 0), with_places(with_subifds(), 0, 0)):
        with open_slide(saved(tmp_path, data)) as slide:
            assert (slide.frame().read(Box(0, 0, 50, 50)) == 255).all()


@pytest.mark.parametrize("how", [{"rowsperstrip": 20}, {}, {"tile": (64, 128)}], ids=str)
def test_strips_and_tiles_of_a_tiff_are_read_box_by_box(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    image = tissue(301, 263, seed=2)
    for compression in (None, "jpegxl", "deflate"):
        path = tmp_path / f"{compression}.ome.tif"
        told: dict[str, Any] = (
            {"compressionargs": {"lossless": True}} if compression == "jpegxl" else {}
        )
        tifffile.imwrite(path, image, photometric="rgb", compression=compression, **how, **told)
        with closing(TiffSource(path)) as source:
            for box in (Box(0, 0, 301, 263), Box(7, 11, 90, 130), Box(290, 250, 11, 13)):
                assert np.array_equal(source.read(0, box), image[box.slices])


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2k", "webp", "jpegxl", "deflate", "zstd", "lzw"])
def test_a_tile_that_would_grow_is_an_error_and_takes_no_memory(tmp_path: Path, codec: str) -> None:
    square = np.zeros((6000, 6000, 3), np.uint8)
    codecs: dict[str, tuple[int, Callable[[], Any]]] = {
        "jpeg": (7, lambda: imagecodecs.jpeg8_encode(square)),
        "jpeg2k": (33003, lambda: imagecodecs.jpeg2k_encode(square, level=0, codecformat="j2k")),
        "webp": (50001, lambda: imagecodecs.webp_encode(square)),
        "jpegxl": (50002, lambda: imagecodecs.jpegxl_encode(square, effort=1)),
        "deflate": (8, lambda: zlib.compress(square.tobytes(), 1)),
        "zstd": (50000, lambda: imagecodecs.zstd_encode(square.tobytes(), 1)),
        "lzw": (5, lambda: imagecodecs.lzw_encode(square.tobytes())),
    }
    number, encoded = codecs[codec]
    path = saved(tmp_path, with_tiles(bytes(encoded()), with_subifds(), number), "a.ome.tif")
    with open_slide(path) as slide:
        tracemalloc.start()
        try:
            pixels = slide.frame().read(Box(0, 0, 16, 16))
        except SlidesrError:
            pass
        else:
            assert codec == "lzw"  # it stops where the tile is full
            assert not pixels.any()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20e6


def test_a_stored_tile_beyond_the_end_is_refused(tmp_path: Path) -> None:
    data = with_subifds()
    path = saved(tmp_path, with_places(data, len(data) - 5, 100), "a.ome.tif")
    with pytest.raises(RefusedError, match=r"it is cut off|Short read"):
        open_slide(path)


def test_fewer_places_than_tiles_are_refused(tmp_path: Path) -> None:
    data = patched(with_subifds(), 324, count=4)
    assert data is not None
    path = saved(tmp_path, patched(data, 325, count=4), "a.ome.tif")
    assert entry_at(data, 324)
    with pytest.raises(RefusedError, match="4 of 9 tiles"):
        open_slide(path)


# Plain images


def test_a_jpeg_of_endless_scans_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="more than 64 scans"):
        open_slide(saved(tmp_path, progressive_of(100), "a.jpg"))
    with open_slide(saved(tmp_path, progressive_of(1), "b.jpg")) as slide:
        assert slide.frame().read(slide.size.box).std() > 1


def test_a_jpeg_of_few_bytes_and_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot hold 16000 x 16000 px"):
        open_slide(saved(tmp_path, progressive_of(1, side=16_000), "a.jpg"))
    blank = BytesIO()
    Image.new("RGB", (4000, 4000), "white").save(blank, "JPEG", progressive=True, quality=10)
    with open_slide(saved(tmp_path, blank.getvalue(), "white.jpg")) as slide:
        assert slide.size == Size(4000, 4000)


def test_a_broken_strip_is_told_by_us_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = BytesIO()
    Image.fromarray(tissue(90, 80)).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    data[20:400] = b"\xff" * 380
    with open_slide(saved(tmp_path, bytes(data))) as slide, pytest.raises(SlidesrError):
        slide.frame().read(slide.size.box)
    assert capfd.readouterr().err == ""


# Files


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    """Each kind of slide, each way out; OpenSlide itself would follow."""
    led = [path for _, path in indexed(tmp_path) if path.stem.endswith(("above", "absolute"))]
    assert len(led) == 6
    for path in led:
        with pytest.raises(RefusedError, match="names a file outside its folder"):
            open_slide(path)


def test_an_index_that_stays_inside_passes(tmp_path: Path) -> None:
    """Dates and names with a slash are no files."""
    (tmp_path / "a").mkdir()
    text = "[GENERAL]\nSLIDE_CREATIONDATETIME = 24/10/2008\nSLIDE_NAME = /x/../y\n[DATAFILE]\n"
    (tmp_path / "a" / "Slidedat.ini").write_text(f"{text}FILE_0 = Data0000.dat\n")
    refuse_names_elsewhere(tmp_path / "a.mrxs", "mirax")


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    check_file(saved(tmp_path, b"1"))
    for path in (tmp_path, tmp_path / "none", tmp_path / "n\0ul", saved(tmp_path, b"", "empty")):
        with pytest.raises(RefusedError):
            check_file(path)


def test_camelyon_style_still_opens(tmp_path: Path) -> None:
    camelyon_style(tmp_path / "a.tif", tissue(1000, 700), 0.25, tile=512)
    with open_slide(tmp_path / "a.tif") as slide:
        assert len(slide.levels) == 4
