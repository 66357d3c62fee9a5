"""Patches lie on tissue, bear the right label, are split by slide, and survive interruptions."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from support.annotations import asap
from support.slides import camelyon_style
from tifffile import TiffWriter

from slidesr.cli import run
from slidesr.errors import BusyError, RefusedError
from slidesr.geometry import Size
from slidesr.patches.dataset import split_slides
from slidesr.patches.make import PatchProgress, PatchSummary, make_patches
from slidesr.patches.options import SPLITS, PatchOptions
from slidesr.patches.sampling import blur, places, tissue_share, tissue_shares
from slidesr.patches.sources import find_material
from slidesr.slide import open_slide
from slidesr.slide.image_files import group_of, image_paths, read_rgb
from slidesr.train.data import DataRecipe, PatchSampler

U8 = NDArray[np.uint8]

GLASS = (243, 241, 244)
SIDE = 64
EVERY = PatchOptions(size_px=SIDE, per_slide=10_000, split=(1, 0, 0), licence="CC0")
SECTION = (slice(64, 576), slice(128, 640))
LESION, ISLAND, CUT = (40, 30, 250, 600), (470, 100, 570, 180), (140, 200, 200, 360)


def ring(x: int, y: int, right: int, bottom: int) -> list[list[int]]:
    return [[x, y], [right, y], [right, bottom], [x, bottom]]


LESIONS = asap(
    ("Polygon", "_0", ring(*LESION)),
    ("Polygon", "_1", ring(*ISLAND)),
    ("Polygon", "_2", ring(*CUT)),
)


@pytest.fixture(scope="session")
def scan(section: U8) -> U8:
    """A section of 512 x 512 px on glass, u8[640, 768, 3]."""
    image = np.empty((640, 768, 3), np.uint8)
    image[:] = GLASS
    image[SECTION] = section
    return image


@pytest.fixture(scope="session")
def archive(scan: U8, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides as Camelyon16 has them; the lesions of one lie in a folder of their own."""
    folder = tmp_path_factory.mktemp("archive")
    for name, image in {
        "tumor/tumor_001": scan,
        "normal/normal_001": scan[:, ::-1],
        "normal/normal_002": scan[::-1],
    }.items():
        path = folder / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        camelyon_style(path, np.ascontiguousarray(image), mpp=2.0, tile=256)
    (folder / "lesions").mkdir()
    (folder / "lesions" / "tumor_001.xml").write_text(LESIONS)
    return folder


def made(archive: Path, output: Path, options: PatchOptions, workers: int = 2) -> PatchSummary:
    material = find_material([archive], archive / "lesions")
    return make_patches(material, output, options, workers=workers)


def tumor(archive: Path, output: Path, options: PatchOptions = EVERY) -> list[dict[str, str]]:
    """The manifest of the one slide with lesions."""
    material = find_material([archive / "tumor"], archive / "lesions" / "tumor_001.xml")
    make_patches(material, output, options)
    return manifest(output)


def manifest(output: Path, split: str = "train") -> list[dict[str, str]]:
    with (output / split / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    """When each patch was written, by its name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def lesion_map(*cuts: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Where the lesions are, by plain slices."""
    mask = np.zeros((640, 768), np.bool_)
    for x, y, right, bottom in (LESION, ISLAND):
        mask[y:bottom, x:right] = True
    for x, y, right, bottom in cuts:
        mask[y:bottom, x:right] = False
    return mask


# ---- places and labels ---------------------------------------------------------------------------


def test_labels_are_right_at_every_place(archive: Path, tmp_path: Path) -> None:
    found = {
        (int(row["x"]), int(row["y"])): row["label"] for row in tumor(archive, tmp_path / "patches")
    }
    (tmp_path / "lone").mkdir()
    lone = shutil.copy(archive / "tumor" / "tumor_001.tif", tmp_path / "lone")
    make_patches(find_material([Path(lone)]), tmp_path / "all", EVERY)
    mask = np.pad(lesion_map(CUT), SIDE)
    for row in manifest(tmp_path / "all"):
        x, y = int(row["x"]), int(row["y"])
        near = mask[y + SIDE // 2 : y + 5 * SIDE // 2, x + SIDE // 2 : x + 5 * SIDE // 2]
        if mask[y + 3 * SIDE // 2, x + 3 * SIDE // 2]:
            assert found.pop((x, y)) == "tumor"
        elif not near.any():
            assert found.pop((x, y)) == "normal"
        else:  # a lesion is near by; only beyond the corners it may be half a patch off
            corners = near[:22, :22], near[:22, -22:], near[-22:, :22], near[-22:, -22:]
            assert found.pop((x, y), None) is None or near.sum() == sum(c.sum() for c in corners)
    assert not found


def test_geojson_gives_the_same_labels(archive: Path, tmp_path: Path) -> None:
    def feature(name: str, box: tuple[int, int, int, int]) -> dict[str, object]:
        rings = [[*ring(*box), ring(*box)[0]]]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {"classification": {"name": name}},
        }

    drawn = [feature("Tumor", LESION), feature("Tumor", ISLAND), feature("Normal", CUT)]
    path = tmp_path / "tumor_001.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": drawn}))
    make_patches(find_material([archive / "tumor"], path), tmp_path / "geojson", EVERY)
    assert manifest(tmp_path / "geojson") == tumor(archive, tmp_path / "asap")


@pytest.mark.parametrize("suffix", [".xml", ".geojson", ".json"])
def test_a_gzipped_annotation_is_found_by_name(tmp_path: Path, suffix: str) -> None:
    slide, annotation = tmp_path / "a.ome.tif", tmp_path / f"a{suffix}.gz"
    slide.touch()
    annotation.touch()
    assert [item.annotation for item in find_material([slide])] == [annotation]
    (tmp_path / f"a{suffix}").touch()
    with pytest.raises(RefusedError, match="Keep one of them"):
        find_material([slide])


def test_tumour_and_normal_are_balanced(archive: Path, tmp_path: Path) -> None:
    rows = tumor(archive, tmp_path / "even", replace(EVERY, per_slide=11))
    assert sorted(row["label"] for row in rows) == ["normal"] * 5 + ["tumor"] * 6


def test_more_patches_hold_the_fewer_ones(archive: Path, tmp_path: Path) -> None:
    few, many = (
        {row["file"] for row in tumor(archive, tmp_path / str(n), replace(EVERY, per_slide=n))}
        for n in (10, 20)
    )
    assert few < many


def test_a_slide_without_annotation_is_labelled_as_told(archive: Path, tmp_path: Path) -> None:
    for label in ("", "normal"):
        output = tmp_path / f"as{label}"
        made(archive, output, replace(EVERY, per_slide=2, unannotated=label))
        labels = {row["slide"]: row["label"] for row in manifest(output)}
        assert labels["normal_001"] == labels["normal_002"] == label


def test_patches_never_overlap_and_never_show_glass(
    archive: Path, scan: U8, tmp_path: Path
) -> None:
    free = np.ones(scan.shape[:2], np.bool_)
    on_section = np.zeros(scan.shape[:2], np.bool_)
    on_section[SECTION] = True
    rows = tumor(archive, tmp_path / "patches")
    assert len(rows) > 20
    for row in rows:
        at = np.s_[int(row["y"]) : int(row["y"]) + SIDE, int(row["x"]) : int(row["x"]) + SIDE]
        assert free[at].all()
        free[at] = False
        assert on_section[at].mean() >= 0.5
        assert tissue_share(scan[at], GLASS) > 0.45  # 0.5 of the pixels after JPEG


def test_what_the_mask_leaves_out_is_no_place(archive: Path) -> None:
    mask = np.zeros((5, 6), np.bool_)  # of 128 px: two cells of 64 px a side
    mask[1:3, 2] = True
    with open_slide(archive / "tumor" / "tumor_001.tif") as slide:
        found = places(slide.frame(), mask, None, EVERY, "tumor_001")
        others = places(slide.frame(), mask, None, replace(EVERY, seed=1), "tumor_001")
    rows = [(256 + x, 128 + y) for x in (0, 64) for y in (0, 64, 128, 192)]
    assert sorted((box.x, box.y) for box in found[""]) == rows
    assert found != others


def test_blurred_tissue_is_rejected(scan: U8, tmp_path: Path) -> None:
    image = scan.copy()
    left = Image.fromarray(scan[:, :384])
    image[:, :384] = np.asarray(left.filter(ImageFilter.GaussianBlur(2.5)))
    camelyon_style(tmp_path / "slide.tif", image, mpp=2.0, tile=256)
    for most, leftmost in ((0.5, 384), (1.0, 128)):
        output = tmp_path / str(most)
        options = replace(EVERY, max_blur=most)
        make_patches(find_material([tmp_path / "slide.tif"]), output, options)
        assert min(int(row["x"]) for row in manifest(output)) == leftmost


def test_blur_is_told_whatever_the_stain_is_like(section: U8) -> None:
    for gain in (0.3, 1.0):
        pale = (255 - gain * (255.0 - section)).round().astype(np.uint8)
        soft = np.asarray(Image.fromarray(pale).filter(ImageFilter.GaussianBlur(2)))
        assert blur(pale) < 0.4 < 0.5 < blur(soft)
    assert blur(np.full((SIDE, SIDE, 3), 9, np.uint8)) == 1


def test_tissue_of_which_only_nuclei_are_stained_counts_and_glass_does_not(scan: U8) -> None:
    rng = np.random.default_rng(0)
    glass = np.rint(rng.normal(GLASS, 3, (256, 256, 3))).clip(0, 255).astype(np.uint8)
    assert tissue_share(glass, GLASS) == 0
    rows, columns = np.indices((256, 256))
    for step, least, most in ((40, 0.9, 1), (128, 0.01, 0.02)):
        dotted = glass.copy()
        dotted[(rows % step < 14) & (columns % step < 14)] = (90, 120, 180)
        assert least <= tissue_share(dotted, GLASS) <= most
    assert tissue_share(scan[SECTION], GLASS) > 0.8


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(1, 12)
)
def test_shares_of_tissue_are_exact(
    rows: int, columns: int, height: int, width: int, cell: int
) -> None:
    mask = np.random.default_rng(rows * columns + cell).random((rows, columns)) < 0.5
    fine = np.kron(mask, np.ones((height, width)))  # whole pixels, where cells and mask agree
    fine = np.kron(fine, np.ones((rows, columns)))
    shares = tissue_shares(mask, Size(width, height), cell)
    assert shares.shape == (height // cell, width // cell)
    step_y, step_x = cell * rows * rows, cell * columns * columns
    for row, column in np.ndindex(*shares.shape):
        part = fine[row * step_y : (row + 1) * step_y, column * step_x : (column + 1) * step_x]
        assert shares[row, column] == pytest.approx(part.mean())


# ---- resolution and manifest ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "downsample", "level", "mpp"),
    [
        ({}, 1, "0", "2"),
        ({"level": 1}, 2, "1", "4"),
        ({"mpp": 3.0}, 1.5, "0", "3"),
        ({"magnification": 2.5}, 2, "1", "4"),
    ],
)
def test_manifest_says_what_the_files_are(
    archive: Path,
    tmp_path: Path,
    resolution: dict[str, float],
    downsample: float,
    level: str,
    mpp: str,
) -> None:
    options = replace(EVERY, per_slide=6, dataset="Camelyon16", **resolution)  # type: ignore[arg-type]
    rows = tumor(archive, tmp_path / "patches", options)
    with open_slide(archive / "tumor" / "tumor_001.tif") as slide:
        frame = slide.frame(**resolution)  # type: ignore[arg-type]
        for row in rows:
            path = tmp_path / "patches" / "train" / row["file"]
            x, y = int(row["x"]), int(row["y"])
            assert path.name == f"tumor_001_{x}_{y}.png"
            place = Size(SIDE, SIDE).box.moved(round(x / downsample), round(y / downsample))
            np.testing.assert_array_equal(read_rgb(path), frame.read(place))
            assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
            assert (row["level"], row["mpp"]) == (level, mpp)
            assert (row["width"], row["height"]) == (str(SIDE), str(SIDE))
            assert (row["dataset"], row["licence"]) == ("Camelyon16", "CC0")


def test_a_split_is_a_folder_of_images_by_slide(archive: Path, tmp_path: Path) -> None:
    made(archive, tmp_path / "patches", replace(EVERY, per_slide=4))
    train = tmp_path / "patches" / "train"
    rows = manifest(tmp_path / "patches")
    assert {train / row["file"] for row in rows} == set(image_paths(train))
    assert {row["slide"] for row in rows} == {group_of(p, train) for p in image_paths(train)}


# ---- split ---------------------------------------------------------------------------------------

names = st.sets(st.text("abcdef0123", min_size=1, max_size=6), max_size=30).map(sorted)
shares = st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.9, 0.1, 0.0), (1.0, 0.0, 0.0)])


@given(names, names, names, shares, st.integers(0, 3))
def test_split_fills_what_it_can_and_never_moves_a_slide(
    tumor: list[str],
    normal: list[str],
    more: list[str],
    shares: tuple[float, float, float],
    seed: int,
) -> None:
    options = PatchOptions(split=shares, seed=seed)
    normal = sorted(set(normal) - set(tumor))
    more = sorted(set(more) - set(tumor) - set(normal))
    first = split_slides([tumor, normal], options, {})
    assert set(first) == {*tumor, *normal}
    wanted = [split for split, share in zip(SPLITS, shares, strict=True) if share]
    assert set(first.values()) <= set(wanted)
    assert {first[name] for name in first} >= set(wanted[: min(2, len(first))])
    for stratum in (tumor, normal):
        if len(stratum) > 1:
            assert {first[name] for name in stratum} >= set(wanted[: len(stratum)])
    later = split_slides([tumor, [*normal, *more]], options, first)
    assert later.items() >= first.items()


def test_most_slides_keep_their_split_in_another_folder() -> None:
    options = PatchOptions()
    few = split_slides([[f"a{n}" for n in range(100)]], options, {})
    many = split_slides([[f"a{n}" for n in range(400)]], options, {})
    assert all(many[name] == split for name, split in few.items())
    assert 300 < sum(split == "train" for split in many.values()) < 340


def test_patches_of_a_slide_share_its_split(archive: Path, tmp_path: Path) -> None:
    summary = made(archive, tmp_path, replace(EVERY, per_slide=5, split=(0.8, 0.1, 0.1)))
    slides = {split: {row["slide"] for row in manifest(tmp_path, split)} for split in SPLITS[:2]}
    assert slides["train"]
    assert slides["valid"]
    assert slides["train"].isdisjoint(slides["valid"])
    assert sum(sum(counts.values()) for counts in summary.patches.values()) == 15


# ---- interruptions -------------------------------------------------------------------------------

SOME = replace(EVERY, per_slide=8, split=(0.5, 0.5, 0.0))


def stopping(after: int) -> Callable[[PatchProgress], None]:
    """A report that interrupts the run at its n-th call."""
    calls = iter(range(after))

    def report(now: PatchProgress) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_run_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    made(archive, tmp_path / "whole", SOME)
    material = find_material([archive], archive / "lesions")
    for after in (0, 3, 12, 14):
        with pytest.raises(KeyboardInterrupt):
            make_patches(material, tmp_path / "parts", SOME, report=stopping(after))
        for split in ("train", "valid"):
            for slide in (tmp_path / "parts" / split).glob("*/"):
                published = tree(slide)
                assert published == tree(tmp_path / "whole" / split / slide.name)
    written = times(tmp_path / "parts" / "unfinished")
    assert written
    made(archive, tmp_path / "parts", SOME, workers=3)
    assert times(tmp_path / "parts").items() >= written.items()  # none was made again
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    assert not (tmp_path / "parts" / "unfinished").exists()


def test_pairs_are_the_slides_own_coarser_level(archive: Path, tmp_path: Path) -> None:
    rows = tumor(archive, tmp_path / "out", replace(EVERY, pairs=2))
    with open_slide(archive / "tumor" / "tumor_001.tif") as slide:
        coarse = slide.frame(level=1)
        for row in rows:
            partner = read_rgb(tmp_path / "out" / "train.x2" / row["file"])
            x, y = int(row["x"]) // 2, int(row["y"]) // 2
            box = Size(SIDE // 2, SIDE // 2).box.moved(x, y)
            assert np.array_equal(partner, coarse.read(box))
    recipe = DataRecipe(patch_px=32, context_px=0, degradation="levels")
    pair = PatchSampler(tmp_path / "out" / "train", recipe, scale=2, seed=0).draw(0, 3)
    assert pair.low.shape == (3, 3, 16, 16)


def test_pairs_of_a_level_that_is_a_little_off_are_refused(tmp_path: Path, scan: U8) -> None:
    nearly = Image.fromarray(scan).resize((387, 323))  # 384 x 320 would be half
    with TiffWriter(tmp_path / "slide.tif") as tiff:
        for index, level in enumerate((scan, np.array(nearly))):
            tiff.write(level, tile=(256, 256), photometric="rgb", subfiletype=index)
    with pytest.raises(RefusedError, match="no level is 2 times smaller"):
        make_patches(find_material([tmp_path]), tmp_path / "out", replace(EVERY, pairs=2))


def test_pairs_of_a_level_that_is_not_there_are_refused(archive: Path, tmp_path: Path) -> None:
    summary = made(archive, tmp_path / "out", replace(EVERY, pairs=32))
    assert set(summary.failed) == {"tumor_001", "normal_001", "normal_002"}
    with pytest.raises(RefusedError, match="pairs 3"):
        replace(EVERY, pairs=3)


def test_what_is_there_is_not_made_again(archive: Path, tmp_path: Path) -> None:
    made(archive, tmp_path, SOME)
    before = times(tmp_path)
    made(archive, tmp_path, SOME)
    assert times(tmp_path) == before


def test_nothing_half_written_stands_under_a_name(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = iter(range(5))  # patches.json and four patches

    def sync(handle: int) -> None:
        if next(written, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("slidesr.patches.dataset.os.fsync", sync)
        with pytest.raises(OSError, match="No space left"):
            made(archive, tmp_path / "full", SOME, workers=1)
    assert len(times(tmp_path / "full" / "unfinished")) == 4
    made(archive, tmp_path / "full", SOME)
    made(archive, tmp_path / "whole", SOME)
    assert tree(tmp_path / "full") == tree(tmp_path / "whole")


def test_slides_may_be_added(archive: Path, tmp_path: Path) -> None:
    make_patches(find_material([archive / "normal"]), tmp_path, SOME)
    before = tree(tmp_path / "valid")
    made(archive, tmp_path, SOME)
    after = tree(tmp_path / "valid")
    assert {name for name in before if name.endswith(".png")} <= set(after)


def test_a_slide_gives_the_same_patches_beside_any_others(archive: Path, tmp_path: Path) -> None:
    made(archive, tmp_path / "three", replace(SOME, split=(1, 0, 0)))
    tumor(archive, tmp_path / "one", replace(SOME, split=(1, 0, 0)))
    one, three = (tree(tmp_path / which / "train" / "tumor_001") for which in ("one", "three"))
    assert one == three


def test_another_process_is_kept_out(archive: Path, tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(BusyError, match="another process"):
        made(archive, tmp_path, SOME)
    os.close(handle)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.fixture
def desk(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a slide, its lesions, and a broken slide."""
    shutil.copy(archive / "tumor" / "tumor_001.tif", tmp_path)
    (tmp_path / "tumor_001.xml").write_text(LESIONS)
    (tmp_path / "twice").mkdir()
    shutil.copy(tmp_path / "tumor_001.tif", tmp_path / "twice")
    (tmp_path / "broken.tif").write_text("not a slide")
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ["--size", "64", "--per-slide", "4"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.svs", "-o", "out"], "nowhere.svs: no such file"),
        (["empty", "-o", "out"], "empty: no slides here"),
        (["tumor_001.tif", "twice", "-o", "out"], "2 slides are called tumor_001"),
        (["tumor_001.tif", "-o", "used"], "used: contains other files"),
        (["tumor_001.tif", "-o", "out", "--annotations", "empty"], "holds no annotation"),
        (["tumor_001.tif", "broken.tif", "-o", "out", "--annotations", "a.xml"], "is not a folder"),
        (["tumor_001.tif", "-o", "out", "--split", "0.5,0.5,0.5"], "add up to 1"),
        (["tumor_001.tif", "-o", "out", "--split", "0,1,0"], "train's above 0"),
        (["tumor_001.tif", "-o", "out", "--split", "1,0"], "split 1,0"),
        (["tumor_001.tif", "-o", "out", "--split", "2,-1,0"], "split 2,-1,0"),
        (["tumor_001.tif", "-o", "out", "--split", "a,b,c"], "three numbers"),
        (["tumor_001.tif", "-o", "out", "--level", "0", "--mpp", "4"], "only one of"),
        (["tumor_001.tif", "-o", "out", "--mpp", "-1"], "not positive"),
        (["tumor_001.tif", "-o", "out", "--source-mpp", "0"], "not positive"),
        (["tumor_001.tif", "-o", "out", "--licence", ""], "must not be empty"),
        (["tumor_001.tif", "-o", "out", "--size", "3"], "--size"),
        (["tumor_001.tif"], "-o"),
    ],
)
def test_a_mistake_is_refused(
    desk: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(["patches", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (desk / "out").exists()
    assert tree(desk / "used") == {"thesis.txt": b""}


def test_two_annotations_are_refused(desk: Path) -> None:
    (desk / "tumor_001.json").write_text("{}")
    with pytest.raises(RefusedError, match=r"there is tumor_001\.json too"):
        find_material([desk / "tumor_001.tif"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--level", "9"], "no level 9"),
        (["--size", "2000"], "smaller than a patch of 2000 px"),
        (["--lesion", "Stroma"], "no area of kind Stroma; it has _0 1 (not used), _1 1 (not used)"),
    ],
)
def test_what_a_slide_cannot_give_is_one_line(
    desk: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert run(["patches", "tumor_001.tif", "-o", "out", *options]) == 2
    assert says in capsys.readouterr().err
    assert not list((desk / "out").rglob("*.png"))


def test_lesions_beside_the_slide_are_refused(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "tumor_001.xml").write_text(asap(("Polygon", "_0", ring(5000, 0, 5100, 100))))
    assert run(["patches", "tumor_001.tif", "-o", "out"]) == 2
    assert "lies wholly outside the slide" in capsys.readouterr().err


def test_a_broken_slide_does_not_stop_the_others(
    desk: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["patches", "broken.tif", "tumor_001.tif", "-o", "out", *SMALL, "--json"]
    assert run(arguments) == 1
    assert "broken.tif: not a slide" in caplog.text
    told = capsys.readouterr()
    assert "1 of 2 slides failed: broken" in told.err
    summary = json.loads(told.out)
    assert summary["failed"] == ["broken"]
    assert sum(map(len, summary["patches"].values())) == 2  # tumour and normal, in one split


def test_an_empty_slide_gives_none_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    glass = np.full((300, 300, 3), GLASS, np.uint8)
    camelyon_style(tmp_path / "glass.tif", glass, mpp=2.0, tile=256)
    with caplog.at_level(logging.WARNING):
        make_patches(find_material([tmp_path / "glass.tif"]), tmp_path / "out", EVERY)
    assert "yields no patch" in caplog.text
    assert not list((tmp_path / "out").rglob("*.png"))


def test_other_options_or_slides_are_refused(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["patches", "tumor_001.tif", "-o", "out", *SMALL]
    assert run(command) == 0
    before = tree(desk / "out")
    assert run([*command, "--seed", "1"]) == 2
    assert "started with seed 0, not 1" in capsys.readouterr().err
    with (desk / "tumor_001.xml").open("a") as file:
        file.write("<!-- mended -->")
    assert run(command) == 2
    assert "has changed since" in capsys.readouterr().err
    assert tree(desk / "out") == before
    (desk / "out" / "patches.json").write_text("{")
    assert run(command) == 2
    assert "patches.json: broken" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(pixels: U8) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("slidesr.patches.make.blur", interrupted)
        assert run(["patches", "tumor_001.tif", "-o", "out", *SMALL]) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert run(["patches", "tumor_001.tif", "-o", "out", *SMALL]) == 0
    assert "tumor" in capsys.readouterr().out


def test_a_zarr_store_is_a_slide_like_any_other(desk: Path) -> None:
    """Named, or in a folder; its annotation has its name without the suffix."""
    (desk / "more").mkdir()
    assert run(["convert", "tumor_001.tif", "more/tumor_002.ome.zarr"]) == 0
    (desk / "more" / "tumor_002.xml").write_text((desk / "tumor_001.xml").read_text())
    for number, source in enumerate(("more", "more/tumor_002.ome.zarr")):
        assert run(["patches", source, "-o", f"out{number}", *SMALL]) == 0
        names = {path.parent.name for path in (desk / f"out{number}").rglob("*.png")}
        assert names == {"tumor_002"}
        assert list((desk / f"out{number}").rglob("*.png"))
