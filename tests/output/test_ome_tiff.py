"""The written file as its bytes and tags are, and how it comes to be: whole or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from ome_types import OME, from_xml, validate_xml
from support.blocks import GLASS, ICC_PROFILE, METADATA, MPP, PROVENANCE, Sheet, append, stained
from support.slides import tissue

from slidesr.errors import BusyError, RefusedError
from slidesr.geometry import Size
from slidesr.output.compression import COMPRESSIONS, Compression
from slidesr.output.format import LAYOUTS
from slidesr.output.metadata import Metadata, ome_xml, plain_text
from slidesr.output.ome_tiff import OmeTiffWriter

U8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def image() -> U8:
    return stained(401, 333)


def pages_of(tiff: tifffile.TiffFile, layout: str) -> list[tifffile.TiffPage]:
    """The levels' directories, from the main chain, or from the SubIFDs where it has only one."""
    first = tiff.pages.first
    rest = first.pages or [] if layout == "ome" else tiff.pages[1:]
    return [first, *(page.aspage() for page in rest)]


# What the directories say


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_level_is_a_directory_with_its_tags(
    tmp_path: Path, image: U8, name: str, layout: str
) -> None:
    sheet = Sheet(image, Compression(name), layout)
    with tifffile.TiffFile(sheet.write(tmp_path / "a.ome.tif")) as tiff:
        assert tiff.is_bigtiff
        assert tiff.byteorder == "<"
        pages = pages_of(tiff, layout)
        assert [(page.imagewidth, page.imagelength) for page in pages] == [
            (size.width, size.height) for size in sheet.plan.levels
        ]
        for level, page in enumerate(pages):
            assert_layout_tags(page, level)
            assert_pixel_size(page, level)


def assert_layout_tags(page: tifffile.TiffPage, level: int) -> None:
    assert (page.tilewidth, page.tilelength) == (64, 64)
    assert (page.samplesperpixel, page.bitspersample, page.planarconfig) == (3, 8, 1)
    assert page.tags["NewSubfileType"].value == min(level, 1)
    assert page.tags["Software"].value == "slidesr"
    assert ("ImageDescription" in page.tags) == (level == 0)
    assert ("InterColorProfile" in page.tags) == (level == 0)


def assert_pixel_size(page: tifffile.TiffPage, level: int) -> None:
    assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
    for tag, mpp in (("XResolution", MPP.x), ("YResolution", MPP.y)):
        numerator, denominator = page.tags[tag].value
        assert 1e4 * denominator / numerator == pytest.approx(mpp * 2**level, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "compression", "photometric", "predictor"),
    [
        ("jpeg", "JPEG", "YCBCR", "NONE"),
        ("jpeg-rgb", "JPEG", "RGB", "NONE"),
        ("lzw", "LZW", "RGB", "HORIZONTAL"),
        ("deflate", "ADOBE_DEFLATE", "RGB", "NONE"),
        ("none", "NONE", "RGB", "NONE"),
    ],
)
def test_the_tags_name_the_compression(
    tmp_path: Path, image: U8, name: str, compression: str, photometric: str, predictor: str
) -> None:
    path = Sheet(image, Compression(name)).write(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        for page in pages_of(tiff, "hybrid"):
            assert tifffile.COMPRESSION(page.compression).name == compression
            assert tifffile.PHOTOMETRIC(page.photometric).name == photometric
            assert tifffile.PREDICTOR(page.predictor).name == predictor
            if name == "jpeg":
                assert page.subsampling == (2, 2)


@pytest.mark.parametrize(
    ("layout", "in_chain", "in_subifds"), [("hybrid", 4, 3), ("ome", 1, 3), ("generic", 4, 0)]
)
def test_the_layouts_differ_in_where_the_levels_hang(
    tmp_path: Path, image: U8, layout: str, in_chain: int, in_subifds: int
) -> None:
    path = Sheet(image, layout=layout).write(tmp_path / "a.tif")
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == in_chain
        assert len(tiff.pages.first.pages or []) == in_subifds
        assert tiff.is_ome == (layout != "generic")


def test_the_copies_in_the_chain_point_at_the_same_tiles(tmp_path: Path, image: U8) -> None:
    path = Sheet(image).write(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        subs = [page.aspage() for page in tiff.pages.first.pages or []]
        copies = [page.aspage() for page in tiff.pages[1:]]
    assert len(subs) == len(copies) == 3
    for sub, copy in zip(subs, copies, strict=True):
        assert sub.offset != copy.offset
        assert copy.offset % 2 == 0
        assert [tag.value for tag in sub.tags] == [tag.value for tag in copy.tags]


def test_only_the_hybrid_layout_has_copies(tmp_path: Path, image: U8) -> None:
    hybrid, ome = (
        Sheet(image, layout=layout).write(tmp_path / f"{layout}.ome.tif").stat().st_size
        for layout in ("hybrid", "ome")
    )
    assert 0 < hybrid - ome < 2000


def test_an_image_of_one_tile_has_one_directory(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        path = Sheet(stained(61, 5), layout=layout).write(tmp_path / f"{layout}.tif")
        with tifffile.TiffFile(path) as tiff:
            assert len(tiff.pages) == 1
            assert not tiff.pages.first.pages
            assert np.array_equal(tiff.pages.first.asarray(), stained(61, 5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_glass_is_stored_once(tmp_path: Path, image: U8, layout: str) -> None:
    sheet = Sheet(image, Compression("lzw"), layout)
    glass_places = set()
    glass_tiles = [tile for tile in sheet.tiles() if tile.data is None]
    with tifffile.TiffFile(sheet.write(tmp_path / "a.ome.tif")) as tiff:
        pages = pages_of(tiff, layout)
        for tile in glass_tiles:
            page = pages[tile.level]
            index = tile.row * -(-page.imagewidth // 64) + tile.column
            glass_places.add((page.dataoffsets[index], page.databytecounts[index]))
        stored = [place for page in pages for place in places_of(page)]
    assert len(glass_tiles) >= 6
    assert {tile.level for tile in glass_tiles} == {0, 1}
    assert len(glass_places) == 1
    assert stored.count(*glass_places) == len(glass_tiles)
    assert len(set(stored)) == len(stored) - len(glass_tiles) + 1


def places_of(page: tifffile.TiffPage) -> list[tuple[int, int]]:
    return list(zip(page.dataoffsets, page.databytecounts, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_tile_is_sparse_or_outside_the_file(tmp_path: Path, image: U8, layout: str) -> None:
    path = Sheet(image, Compression("jpeg"), layout).write(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        for page in pages_of(tiff, layout):
            for offset, count in places_of(page):
                assert 0 < offset < offset + count <= path.stat().st_size
                assert count > 0


def test_without_glass_its_tile_is_not_stored(tmp_path: Path) -> None:
    path = Sheet(tissue(200, 100)).write(tmp_path / "a.ome.tif")
    glass = bytes(GLASS) * 64**2
    assert glass not in path.read_bytes()


def test_a_slide_of_glass_alone_is_one_tile(tmp_path: Path) -> None:
    glass = np.full((1000, 1500, 3), GLASS, np.uint8)
    sheet = Sheet(glass, metadata=replace(METADATA, icc_profile=None))
    path = sheet.write(tmp_path / "a.ome.tif")
    assert np.array_equal(tifffile.imread(path), glass)
    tables = 16 * sum(-(-size.area // 64**2) for size in sheet.plan.levels)
    assert path.stat().st_size < 3 * 64**2 + 2 * tables + 10_000


# What the file says of itself


def description(path: Path) -> str:
    with tifffile.TiffFile(path) as tiff:
        return str(tiff.pages.first.description)


@pytest.mark.parametrize("layout", ["hybrid", "ome"])
def test_the_ome_xml_is_valid_and_says_what_the_image_is(
    tmp_path: Path, image: U8, layout: str
) -> None:
    xml = description(Sheet(image, layout=layout).write(tmp_path / "a.ome.tif"))
    validate_xml(xml)
    pixels = from_xml(xml).images[0].pixels
    assert (pixels.size_x, pixels.size_y) == (401, 333)
    assert (pixels.size_c, pixels.size_z, pixels.size_t) == (3, 1, 1)
    assert (pixels.type.value, pixels.dimension_order.value) == ("uint8", "XYCZT")
    assert pixels.interleaved
    assert [channel.samples_per_pixel for channel in pixels.channels] == [3]
    assert [(data.ifd, data.plane_count) for data in pixels.tiff_data_blocks] == [(0, 1)]


def test_the_ome_xml_has_pixel_size_magnification_and_provenance() -> None:
    ome = from_xml(ome_xml(Size(401, 333), METADATA))
    pixels = ome.images[0].pixels
    assert (pixels.physical_size_x, pixels.physical_size_y) == (MPP.x, MPP.y)
    assert [unit.value for unit in units(pixels)] == ["µm", "µm"]
    assert magnification(ome) == 160.0
    assert ome.structured_annotations is not None
    (note,) = ome.structured_annotations.map_annotations
    assert {pair.k: pair.value for pair in note.value.ms} == PROVENANCE
    assert [reference.id for reference in ome.images[0].annotation_refs] == [note.id]


def test_the_ome_xml_has_no_character_numbers() -> None:
    assert "&#" not in ome_xml(Size(401, 333), METADATA)


def units(pixels: Any) -> list[Any]:
    return [pixels.physical_size_x_unit, pixels.physical_size_y_unit]


def magnification(ome: OME) -> float | None:
    """As QuPath finds it: the nominal magnification of the objective that the image refers to."""
    settings = ome.images[0].objective_settings
    objectives = [each for instrument in ome.instruments for each in instrument.objectives]
    (found,) = [each for each in objectives if settings and each.id == settings.id]
    return found.nominal_magnification


def test_what_is_not_known_is_not_said(tmp_path: Path, image: U8) -> None:
    bare = Metadata(None, None, None)
    with tifffile.TiffFile(Sheet(image, metadata=bare).write(tmp_path / "a.ome.tif")) as tiff:
        page = tiff.pages.first
        xml = page.description
        assert "InterColorProfile" not in page.tags
        assert "ResolutionUnit" not in page.tags or page.tags["ResolutionUnit"].value == 1
    validate_xml(xml)
    for word in ("PhysicalSize", "Magnification", "Objective", "Annotation", "Instrument"):
        assert word not in xml


def test_the_plain_layout_says_the_same_in_a_line(tmp_path: Path, image: U8) -> None:
    path = Sheet(image, layout="generic").write(tmp_path / "a.tif")
    text = description(path)
    assert text == plain_text(Size(401, 333), METADATA)
    assert text.isascii()
    first, *facts = text.split("|")
    assert first == "slidesr 401x333"
    assert facts[:4] == [
        "MPP = 0.12345 x 0.25",
        "Magnification = 160",
        "synthetic = true",
        "scale = 4",
    ]


def test_the_icc_profile_is_carried_over(tmp_path: Path, image: U8) -> None:
    for layout in LAYOUTS:
        path = Sheet(image, layout=layout).write(tmp_path / f"{layout}.tif")
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages.first.tags["InterColorProfile"].value == ICC_PROFILE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_tells_who_wrote_it_when_and_where(tmp_path: Path, image: U8, layout: str) -> None:
    path = Sheet(image, layout=layout).write(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        for page in pages_of(tiff, layout):
            assert not {"DateTime", "HostComputer", "Artist", "DocumentName"} & {
                tag.name for tag in page.tags
            }
    content = path.read_bytes()
    for traitor in (b"tifffile", os.uname().nodename.encode(), str(tmp_path).encode()):
        assert traitor not in content


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, image: U8, name: str) -> None:
    sheet = Sheet(image, Compression(name))
    first, second = (sheet.write(tmp_path / each).read_bytes() for each in ("a.tif", "b.tif"))
    assert first == second


# Whole or not at all


def test_a_missing_tile_is_an_error_and_no_file(tmp_path: Path, image: U8) -> None:
    sheet = Sheet(image)
    with sheet.writer(tmp_path / "a.ome.tif") as writer:
        for painted in list(sheet.painted())[:-1]:
            writer.append(writer.encode(painted))
        with pytest.raises(ValueError, match="level 0: no tile at row 4, column 6"):
            writer.finish()
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_without_finish(tmp_path: Path, image: U8) -> None:
    sheet = Sheet(image)
    with sheet.writer(tmp_path / "a.ome.tif") as writer:
        append(sheet, writer)
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(".")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_after_an_error(tmp_path: Path, image: U8) -> None:
    def failing(writer: OmeTiffWriter) -> None:
        with writer:
            writer.append(writer.encode(next(Sheet(image).painted())))
            raise MemoryError

    with pytest.raises(MemoryError):
        failing(Sheet(image).writer(tmp_path / "a.ome.tif"))
    assert not list(tmp_path.iterdir())


def test_only_the_output_is_left_after_finish(tmp_path: Path, image: U8) -> None:
    Sheet(image).write(tmp_path / "a.ome.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def test_an_existing_output_is_refused(tmp_path: Path, image: U8) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_bytes(b"precious")
    with pytest.raises(RefusedError, match=r"a\.ome\.tif: exists already.*--overwrite"):
        Sheet(image).writer(path)
    assert path.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def test_an_output_to_replace_stays_until_the_end(tmp_path: Path, image: U8) -> None:
    path, sheet = tmp_path / "a.ome.tif", Sheet(image)
    path.write_bytes(b"precious")
    with sheet.writer(path, overwrite=True) as writer:
        append(sheet, writer)
        assert path.read_bytes() == b"precious"
        writer.finish()
    assert np.array_equal(tifffile.imread(path), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def test_an_output_to_replace_stays_if_the_run_fails(tmp_path: Path, image: U8) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_bytes(b"precious")
    with Sheet(image).writer(path, overwrite=True):
        pass
    assert path.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def no_hard_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    "links",
    [
        True,
        False,
    ],
)
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, image: U8, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path, sheet = tmp_path / "a.ome.tif", Sheet(image)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_hard_links)
    with sheet.writer(path) as writer:
        append(sheet, writer)
        path.write_bytes(b"precious")
        with pytest.raises(RefusedError, match="appeared while running"):
            writer.finish()
    assert path.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, image: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "hardlink_to", no_hard_links)
    path = Sheet(image).write(tmp_path / "a.ome.tif")
    assert np.array_equal(tifffile.imread(path), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def test_two_runs_to_one_output_do_not_mix(tmp_path: Path, image: U8) -> None:
    path, sheet, other = tmp_path / "a.ome.tif", Sheet(image), Sheet(255 - image)
    with sheet.writer(path) as writer:
        with pytest.raises(BusyError, match="another process"):
            other.writer(path)
        append(sheet, writer)
        writer.finish()
    assert np.array_equal(tifffile.imread(path), image)


def test_the_part_of_a_killed_run_is_taken_over(tmp_path: Path, image: U8) -> None:
    path, sheet = tmp_path / "a.ome.tif", Sheet(image)
    (tmp_path / ".a.ome.tif.part").write_bytes(b"left behind" * 1_000_000)
    with sheet.writer(path) as writer:
        append(sheet, writer)
        writer.finish()
    assert np.array_equal(tifffile.imread(path), image)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_if_the_metadata_cannot_be_written(tmp_path: Path, image: U8) -> None:
    unwritable = replace(METADATA, provenance={"model": "\0"})
    with pytest.raises(ValueError, match="XML"):
        Sheet(image, metadata=unwritable).writer(tmp_path / "a.ome.tif")
    assert not list(tmp_path.iterdir())


def test_an_output_in_no_folder_is_refused(tmp_path: Path, image: U8) -> None:
    with pytest.raises(RefusedError, match=r"a\.ome\.tif: cannot be written: No such file"):
        Sheet(image).writer(tmp_path / "nowhere" / "a.ome.tif")


def test_an_unknown_layout_is_refused(tmp_path: Path, image: U8) -> None:
    with pytest.raises(ValueError, match="layout 'planar' is not one of hybrid, ome, generic"):
        Sheet(image, layout="planar").writer(tmp_path / "a.ome.tif")
    assert not list(tmp_path.iterdir())
