"""Patches made on a device: of the same kind as the ones made by threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slidesr.errors import RefusedError
from slidesr.imaging.resample import bicubic_down, through_jpeg
from slidesr.train.data import DataRecipe, PatchSampler
from slidesr.train.device_sampler import DeviceSampler, through_jpeg_on_device

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]
CPU = torch.device("cpu")


def sampler(folder: Path, *, scale: int = 4, seed: int = 0, **options: Any) -> DeviceSampler:
    recipe = DataRecipe(**{"patch_px": 16, "context_px": 8, **options})
    return DeviceSampler(folder, recipe, scale=scale, seed=seed, device=CPU)


def as_u8(part: torch.Tensor) -> U8:
    levels: U8 = np.rint(part.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    return levels


def test_a_batch_depends_on_the_seed_and_its_first_patch_alone(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:80, :90]})
    varied: dict[str, Any] = {"stain_jitter": 0.2, "colour_jitter": 0.1, "jpeg_share": 0.5}
    one, again = sampler(folder, **varied), sampler(folder, **varied)
    one.draw(0, 4)
    assert torch.equal(one.draw(8, 4).high, again.draw(8, 4).high)
    assert torch.equal(one.draw(8, 4).low, again.draw(8, 4).low)
    assert not torch.equal(one.draw(8, 4).high, one.draw(12, 4).high)
    assert not torch.equal(one.draw(8, 4).high, sampler(folder, seed=1, **varied).draw(8, 4).high)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_low_resolution_is_pillows(
    scale: int, tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:80, :90]})
    pair = sampler(folder, scale=scale, context_px=0, patch_px=32).draw(0, 6)
    wanted = np.stack([bicubic_down(image, scale) for image in as_u8(pair.high)])
    assert np.abs(as_u8(pair.low).astype(int) - wanted).max() <= 1


def test_crops_come_from_the_images_in_eight_ways(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:32, :32]})  # one place only
    high = as_u8(sampler(folder, context_px=0, patch_px=32).draw(0, 64).high)
    sides = (section[:32, :32], section[:32, :32][:, ::-1])
    ways = {np.rot90(side, turn).tobytes() for side in sides for turn in range(4)}
    assert {image.tobytes() for image in high} == ways


def test_images_are_drawn_by_area_and_weight(tmp_path: Path, save_images: Save) -> None:
    shades = {"a/1.png": (40, 0), "b/1.png": (80, 200), "c/1.png": (40, 100)}
    images = {name: np.full((side, 40, 3), v, np.uint8) for name, (side, v) in shades.items()}
    drawn = sampler(save_images(tmp_path, images), weights={"b": 0.5, "c": 2.0}).draw(0, 4000)
    share = {v: float((drawn.high[:, 0, 0, 0] * 255 == v).float().mean()) for v in (0, 200, 100)}
    assert share == pytest.approx({0: 0.25, 200: 0.25, 100: 0.5}, abs=0.03)


@pytest.mark.parametrize("ihc_share", [0.0, 0.5])
def test_the_distribution_is_that_of_the_threads_sampler(
    ihc_share: float, tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:64, :64]})
    recipe = DataRecipe(
        16, 8, stain_jitter=0.3, colour_jitter=0.1, ihc_share=ihc_share, jpeg_share=0.5
    )
    here = DeviceSampler(folder, recipe, scale=4, seed=0, device=CPU).draw(0, 3000)
    threads = PatchSampler(folder, recipe, scale=4, seed=0).draw(0, 3000)
    for one, other in ((here.high, threads.high), (here.low, threads.low)):
        assert one.shape == other.shape
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(one.mean((0, 2, 3)), other.mean((0, 2, 3)), atol=0.01)
        assert torch.allclose(one.std((0, 2, 3)), other.std((0, 2, 3)), atol=0.01)
        patch_means = [part.mean((1, 2, 3)).std() for part in (one, other)]
        assert patch_means[0] == pytest.approx(float(patch_means[1]), rel=0.1)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_is_close_to_libjpegs(quality: int, subsampling: int, section: U8) -> None:
    image = section[:96, :112]
    made = through_jpeg_on_device(
        torch.from_numpy(image[None].copy()).float(),
        torch.tensor([quality]),
        torch.tensor([subsampling == 2]),
        (0, 0),
    )[0].numpy()
    wanted = through_jpeg(image, quality, subsampling=subsampling).astype(float)
    error = np.abs(made - wanted).mean()
    assert error < 0.75
    assert error < 0.7 * np.abs(image - wanted).mean()


def test_blocks_may_begin_anywhere_in_an_image(section: U8) -> None:
    image = torch.from_numpy(section[None, :40, :48].copy()).float()
    quality, halved = torch.tensor([30]), torch.tensor([True])
    one, other = (
        through_jpeg_on_device(image, quality, halved, beginning) for beginning in ((0, 0), (5, 11))
    )
    assert one.shape == other.shape == image.shape
    assert not torch.equal(one, other)
    assert (one - other).abs().mean() < 8


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_patches_has_a_rectangle_of_another(
    share: float, tmp_path: Path, save_images: Save
) -> None:
    levels = {"a.png": 40, "b.png": 200}
    images = {name: np.full((32, 32, 3), level, np.uint8) for name, level in levels.items()}
    pair = sampler(save_images(tmp_path, images), cutmix_share=share).draw(0, 400)
    low = as_u8(pair.low)[..., 0].reshape(400, -1)
    share_mixed = np.mean([len(np.unique(image)) > 1 for image in low])
    assert share * 0.2 <= share_mixed <= share * 0.5
    for image in as_u8(pair.high)[..., 0]:
        dark = image == 40
        edges = np.flatnonzero((dark[:, 1:] != dark[:, :-1]).any(0)) + 1
        assert len(edges) <= 2
        assert not (edges % 4).any()  # whole low-resolution pixels


def test_what_it_does_not_make_is_refused(tmp_path: Path, save_images: Save, section: U8) -> None:
    folder = save_images(tmp_path, {"a.png": section[:40, :40]})
    for options in ({"degradation": "scanner"}, {"jpeg2000_share": 0.5}):
        with pytest.raises(RefusedError, match="bicubic reductions"):
            sampler(folder, **options)
    with pytest.raises(RefusedError, match=r"a\.png: smaller than half of the 96 px"):
        sampler(folder, patch_px=80)
