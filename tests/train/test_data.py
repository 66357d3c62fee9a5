"""Training patches: each a function of its number, drawn by weight, with its low resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidesr.errors import RefusedError
from slidesr.imaging.degradation import Scanner
from slidesr.imaging.resample import bicubic_down
from slidesr.train.data import DataRecipe, PatchPair, PatchSampler

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]


def flat(value: int, height: int = 24, width: int = 24) -> U8:
    return np.full((height, width, 3), value, np.uint8)


def sampler(folder: Path, scale: int = 2, *, seed: int = 0, **options: Any) -> PatchSampler:
    recipe = DataRecipe(**{"patch_px": 16, "context_px": 4, **options})
    return PatchSampler(folder, recipe, scale=scale, seed=seed)


def as_u8(part: torch.Tensor) -> U8:
    """[n, 3, h, w] in 0..1 -> [n, h, w, 3], which must be whole grey levels."""
    levels = part.permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    whole: U8 = np.rint(levels).astype(np.uint8)
    return whole


def turned(image: U8) -> list[U8]:
    """All eight ways to lay an image down."""
    return [np.rot90(side, turn) for side in (image, image[:, ::-1]) for turn in range(4)]


# Which patches


EVERYTHING: dict[str, dict[str, Any]] = {
    "bicubic": {"jpeg_share": 0.5, "cutmix_share": 0.5, "ihc_share": 0.5},
    "scanner": {"jpeg_share": 0.4, "jpeg2000_share": 0.4},
    "levels": {"cutmix_share": 0.5},
}


@pytest.fixture(scope="module", params=EVERYTHING)
def varied(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    save_images: Save,
    section: U8,
) -> tuple[PatchSampler, PatchPair]:
    """A sampler that varies all it can, and the first 12 patches of its run."""
    folder = tmp_path_factory.mktemp("data") / "train"
    images = {"a.png": section[:40, :50], "b/c.png": section[300:340, :44]}
    save_images(folder, images)
    save_images(folder.with_name("train.x2"), {k: v[::2, ::2] for k, v in images.items()})
    options = EVERYTHING[request.param]
    drawn = sampler(
        folder, degradation=request.param, stain_jitter=0.2, colour_jitter=0.1, **options
    )
    return drawn, drawn.draw(0, 12)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_patch_depends_on_its_number_alone(
    varied: tuple[PatchSampler, PatchPair], data: st.DataObject
) -> None:
    drawn, run = varied
    cuts = sorted(data.draw(st.sets(st.integers(1, 11))))
    parts = data.draw(st.permutations(list(zip([0, *cuts], [*cuts, 12], strict=True))))
    with ThreadPoolExecutor(data.draw(st.integers(1, 4))) as pool:
        for (first, end), pair in zip(
            parts, pool.map(lambda part: drawn.draw(part[0], part[1] - part[0]), parts), strict=True
        ):
            assert torch.equal(pair.high, run.high[first:end])
            assert torch.equal(pair.low, run.low[first:end])


def test_no_two_patches_are_the_same(varied: tuple[PatchSampler, PatchPair]) -> None:
    for part in (varied[1].high, varied[1].low):
        assert len({patch.numpy().tobytes() for patch in part}) == 12


def test_another_seed_draws_others_and_the_same_seed_the_same(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:80, :80]})
    one, again, other = (sampler(folder, seed=seed).draw(3, 4).high for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("scale", [2, 4])
def test_patches_have_the_shape_and_range_they_claim(
    scale: int, tmp_path: Path, save_images: Save, section: U8
) -> None:
    drawn = sampler(save_images(tmp_path, {"a.png": section[:40, :50]}), scale, stain_jitter=0.5)
    pair = drawn.draw(0, 9)
    assert pair.high.shape == (9, 3, 16, 16)
    assert pair.low.shape == (9, 3, 16 // scale, 16 // scale)
    for part in (pair.high, pair.low):
        assert part.dtype == torch.float32
        assert part.is_contiguous(memory_format=torch.channels_last)
        assert part.min() >= 0
        assert 0.2 < part.max() <= 1
        as_u8(part)


def test_weights_and_areas_are_respected(tmp_path: Path, save_images: Save) -> None:
    folder = save_images(
        tmp_path,
        {"a/1.png": flat(0), "b/1.png": flat(100), "b/2.png": flat(200, 48), "c.png": flat(255)},
    )
    weights = {"a": 0.0, "b": 2.0}  # areas 1, 1, 2 and 1: shares 0, 2/7, 4/7 and 1/7
    drawn = as_u8(sampler(folder, weights=weights).draw(0, 1400).high)[:, 0, 0, 0]
    values, counts = np.unique(drawn, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == pytest.approx(
        {100: 400, 200: 800, 255: 200}, abs=80
    )


def test_all_places_are_drawn(tmp_path: Path, save_images: Save) -> None:
    image = np.zeros((26, 25, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.mgrid[:26, :25]
    drawn = as_u8(sampler(save_images(tmp_path, {"a.png": image})).draw(0, 200).high)
    corners = {(int(patch[..., 0].min()), int(patch[..., 1].min())) for patch in drawn}
    assert corners == {(4 + y, 4 + x) for y in range(3) for x in range(2)}


# The low resolution


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_bicubic_is_pillows_without_a_border_effect(
    scale: int, tmp_path: Path, save_images: Save, section: U8
) -> None:
    image = section[100:148, 200:248]  # all of it is drawn, turned and mirrored
    drawn = sampler(save_images(tmp_path, {"a.png": image}), scale, patch_px=32, context_px=8)
    ways, seen, margin = turned(image), set(), 8 // scale
    pair = drawn.draw(0, 40)
    for high, low in zip(as_u8(pair.high), as_u8(pair.low), strict=True):
        (which,) = (i for i, way in enumerate(ways) if np.array_equal(high, way[8:40, 8:40]))
        expected = bicubic_down(np.ascontiguousarray(ways[which]), scale)
        assert np.array_equal(low, expected[margin:-margin, margin:-margin])
        seen.add(which)
    assert len(seen) == 8


def test_the_high_resolution_is_never_sharpened(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    image = section[100:124, 200:224]
    folder = save_images(tmp_path, {"a.png": image})
    drawn = sampler(folder, degradation="scanner", jpeg_share=1.0).draw(0, 8)
    for high in as_u8(drawn.high):
        assert any(np.array_equal(high, way[4:20, 4:20]) for way in turned(image))


@pytest.mark.parametrize("degradation", ["bicubic", "scanner"])
def test_jpeg_share_is_the_share_of_low_resolutions_compressed(
    degradation: str, tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:96, :96]})
    runs = {
        share: sampler(
            folder, degradation=degradation, jpeg_share=share, jpeg_quality=(20, 20)
        ).draw(0, 200)
        for share in (0.0, 0.25, 1.0)
    }
    changed = {
        share: (run.low - runs[0.0].low).abs().amax((1, 2, 3)) for share, run in runs.items()
    }
    assert all(torch.equal(run.high, runs[0.0].high) for run in runs.values())
    assert 30 < (changed[0.25] > 0).sum() < 70
    assert (changed[1.0] > 0).all()


def test_the_codecs_share_the_low_resolutions(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    """JPEG 2000 leaves the patches that JPEG compresses as they were."""
    folder = save_images(tmp_path, {"a.png": section[:96, :96]})
    plain, jpeg, both = (
        sampler(folder, jpeg_share=shares[0], jpeg2000_share=shares[1]).draw(0, 200).low
        for shares in ((0, 0), (0.25, 0), (0.25, 0.5))
    )
    by_jpeg, by_both = ((low != plain).flatten(1).any(1) for low in (jpeg, both))
    assert torch.equal(both[by_jpeg], jpeg[by_jpeg])
    assert 70 < (by_both & ~by_jpeg).sum() < 130


# Levels


def level_pairs(parent: Path, save: Save, low: U8, scale: int) -> Path:
    """A slide whose pixels are squares of one colour: a crop is its level's crop, enlarged."""
    save(parent / f"train.x{scale}", {"slide/1.png": low})
    return save(parent / "train", {"slide/1.png": low.repeat(scale, 0).repeat(scale, 1)})


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("context_px", [0, 4])
def test_levels_are_aligned_turned_and_coloured_alike(
    scale: int, context_px: int, tmp_path: Path, save_images: Save
) -> None:
    low = np.random.default_rng(0).integers(256, size=(13, 14, 3), dtype=np.uint8)
    folder = level_pairs(tmp_path, save_images, low, scale)
    options: dict[str, Any] = {"degradation": "levels", "context_px": context_px}
    plain = sampler(folder, scale, **options).draw(0, 40)
    varied = sampler(folder, scale, stain_jitter=0.5, colour_jitter=0.3, **options).draw(0, 40)
    for pair in (plain, varied):
        assert torch.equal(pair.low, pair.high[:, :, ::scale, ::scale])
        assert torch.equal(pair.low, pair.high[:, :, scale - 1 :: scale, scale - 1 :: scale])
    assert plain.low.shape == (40, 3, 16 // scale, 16 // scale)
    changed = (plain.low != varied.low).flatten(1).any(1)
    assert 20 < changed.sum() < 40  # neither jitter: a quarter of them
    known = {tuple(colour) for colour in low.reshape(-1, 3)}
    assert {tuple(colour) for colour in as_u8(plain.low).reshape(-1, 3)} <= known


def test_the_partners_folder_is_found_from_within(
    tmp_path: Path, save_images: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = level_pairs(tmp_path, save_images, flat(7, 12, 12), 2)
    monkeypatch.chdir(folder)
    assert as_u8(sampler(Path(), degradation="levels").draw(0, 1).low).max() == 7


def test_a_missing_partner_is_refused_by_name(tmp_path: Path, save_images: Save) -> None:
    folder = level_pairs(tmp_path, save_images, flat(7, 12, 12), 2)
    save_images(folder, {"other/2.png": flat(9)})
    with pytest.raises(RefusedError, match=r"train\.x2/other/2\.png: missing.*--pairs 2") as caught:
        sampler(folder, degradation="levels")
    assert "\n" not in str(caught.value)
    sampler(folder, degradation="levels", weights={"other": 0.0})


@pytest.mark.parametrize("size", [(11, 12), (12, 13), (24, 24)], ids=str)
def test_a_partner_of_another_size_is_refused(
    size: tuple[int, int], tmp_path: Path, save_images: Save
) -> None:
    folder = level_pairs(tmp_path, save_images, flat(7, 12, 12), 2)
    save_images(tmp_path / "train.x2", {"slide/1.png": flat(7, *size)})
    with pytest.raises(RefusedError, match=r"train\.x2/slide/1\.png: not 1/2 of"):
        sampler(folder, degradation="levels")


@pytest.mark.parametrize("degradation", ["bicubic", "levels"])
def test_an_image_too_small_for_a_patch_is_mirrored(
    degradation: str, tmp_path: Path, save_images: Save, section: U8
) -> None:
    """At its edges, in both resolutions alike, and with room to move the patch."""
    low = section[:10, :20]
    folder = level_pairs(tmp_path, save_images, low, 2)
    image = low.repeat(2, 0).repeat(2, 1)
    whole = np.pad(image, ((16, 16), (0, 0), (0, 0)), "symmetric")
    pair = sampler(folder, degradation=degradation).draw(0, 40)
    places = set()
    for high, low in zip(as_u8(pair.high), as_u8(pair.low), strict=True):
        found = next(
            (y, x, turned)
            for y in range(37)
            for x in range(25)
            for turned in range(8)
            if np.array_equal(oriented(high, turned), whole[y : y + 16, x : x + 16])
        )
        places.add(found[0])
        if degradation == "levels":
            np.testing.assert_array_equal(low, high[::2, ::2])
    assert len(places) > 8


@pytest.mark.parametrize("degradation", ["bicubic", "levels"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_patches_has_a_rectangle_of_another(
    share: float, degradation: str, tmp_path: Path, save_images: Save
) -> None:
    """Of any size at any place, whole low-resolution pixels, and in both resolutions alike."""
    for name, level in {"dark": 40, "light": 200}.items():
        low = flat(level, 12, 12)
        save_images(tmp_path / "train.x2", {f"{name}/1.png": low})
        save_images(tmp_path / "train", {f"{name}/1.png": low.repeat(2, 0).repeat(2, 1)})
    drawn = sampler(tmp_path / "train", degradation=degradation, cutmix_share=share)
    pair = drawn.draw(0, 400)
    high, low = as_u8(pair.high)[..., 0], as_u8(pair.low)[..., 0]
    mixed = [image for image in high if len(np.unique(image)) > 1]
    # Half of the partners are as dark as the patch, and some rectangles are empty or all of it.
    assert share * 0.25 <= len(mixed) / 400 <= share * 0.5
    for image in mixed:
        edges = [
            np.flatnonzero((np.diff(image.astype(int), axis=axis) != 0).any(1 - axis))
            for axis in (0, 1)
        ]
        assert max(map(len, edges)) <= 2  # straight, across the patch or around a rectangle
        assert all((each % 2 == 1).all() for each in edges)
    if degradation == "levels":
        np.testing.assert_array_equal(low, high[:, ::2, ::2])


def oriented(image: U8, turned: int) -> U8:
    return np.rot90(image[:, ::-1] if turned & 4 else image, turned & 3)


# Refusals


def test_an_image_smaller_than_half_of_what_is_drawn_is_refused(
    tmp_path: Path, save_images: Save
) -> None:
    sampler(save_images(tmp_path, {"a.png": flat(9, 24, 12)}))
    with pytest.raises(RefusedError, match=r"b\.png.*24 px.*weight of 0"):
        sampler(save_images(tmp_path, {"b.png": flat(9, 24, 11)}))


def test_what_has_no_weight_is_not_even_read(tmp_path: Path, save_images: Save) -> None:
    folder = save_images(tmp_path, {"a/1.png": flat(9), "b/1.png": flat(9, 1, 1)})
    (folder / "b/2.png").write_bytes(b"no image")
    sampler(folder, weights={"b": 0.0})


def test_a_weight_for_a_folder_that_is_not_there_is_told(
    tmp_path: Path, save_images: Save, caplog: pytest.LogCaptureFixture
) -> None:
    sampler(save_images(tmp_path, {"a/1.png": flat(9)}), weights={"a": 1, "elsewhere": 2})
    assert "elsewhere" in caplog.text


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_that_leave_nothing_to_draw_are_refused(
    weight: float, tmp_path: Path, save_images: Save
) -> None:
    with pytest.raises(RefusedError, match="weight"):
        sampler(save_images(tmp_path, {"a/1.png": flat(9)}), weights={"a": weight})


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(RefusedError, match="no images"):
        sampler(tmp_path)


def test_a_broken_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    with pytest.raises(RefusedError, match=r"a\.png"):
        sampler(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch_px": 0}, "patch_px"),
        ({"context_px": -4}, "context_px"),
        ({"degradation": "nearest"}, "'nearest'"),
        ({"stain_jitter": -0.1}, "stain_jitter -0.1"),
        ({"stain_jitter": math.nan}, "stain_jitter nan"),
        ({"colour_jitter": 1.0}, "colour_jitter 1.0"),
        ({"ihc_share": 1.5}, "ihc_share 1.5"),
        ({"jpeg_share": 1.5}, "jpeg_share 1.5"),
        ({"jpeg_quality": (0, 50)}, "jpeg_quality"),
        ({"jpeg_quality": (90, 50)}, "jpeg_quality"),
        ({"jpeg_quality": (50,)}, "jpeg_quality"),
        ({"jpeg_quality": (50.5, 90)}, "jpeg_quality"),
        ({"jpeg2000_share": -0.1}, "jpeg2000_share -0.1"),
        ({"jpeg2000_ratio": (0.5, 8)}, "jpeg2000_ratio"),
        ({"jpeg2000_ratio": (8, 4)}, "jpeg2000_ratio"),
        ({"jpeg2000_ratio": (8,)}, "jpeg2000_ratio"),
        ({"jpeg_share": 0.6, "jpeg2000_share": 0.6}, "more than 1 together"),
        ({"degradation": "levels", "jpeg_share": 0.5}, "jpeg2000_share must be 0 with"),
        ({"degradation": "levels", "jpeg2000_share": 0.5}, "jpeg2000_share must be 0 with"),
        ({"scanner": Scanner(blur_px=(0.5, 0.5))}, "scanner"),
    ],
    ids=str,
)
def test_a_wrong_data_recipe_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataRecipe(**options)


def test_a_recipe_knows_whether_it_shows_jpeg() -> None:
    assert not DataRecipe().sees_jpeg
    assert not DataRecipe(degradation="scanner").sees_jpeg
    assert DataRecipe(degradation="scanner", jpeg_share=0.1).sees_jpeg
    assert DataRecipe(degradation="levels").sees_jpeg
