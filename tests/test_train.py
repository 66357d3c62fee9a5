"""Training: recipes that say what is wrong, patches that are what they claim, runs that go on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slidesr.card import card
from slidesr.errors import RefusedError, SlidesrError
from slidesr.metrics import psnr_db
from slidesr.model import load_model, read_model
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.resample import bicubic_down, bicubic_up
from slidesr.train.data import PatchSampler, _jitter_stain, downsample
from slidesr.train.finish import described, write_model
from slidesr.train.loop import Progress, learning_rate, pixel_loss, train
from slidesr.train.recipe import (
    DataRecipe,
    OptimizerRecipe,
    Recipe,
    load_recipe,
    recipe_as_dict,
)

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]

SHIPPED_RECIPE = Path(__file__).parents[1] / "docs/recipes/wa-srgan-x4-fidelity.toml"
RECIPE = Recipe(
    name="tiny",
    generator=GeneratorSpec(2, "weight", 4, bicubic_skip=True, channels=8, blocks=1),
    patches=60,
    high_um_per_px=(0.25, 0.5),
    batch=2,
    validate_every=20,
    data=DataRecipe(patch_px=16, context_px=4, weights={"a": 2.0}, stain_jitter=0.1),
    optimizer=OptimizerRecipe(learning_rate=3e-3, warmup=10, ema=0.9),
)
BATCH_NORM = replace(RECIPE, generator=replace(RECIPE.generator, norm="batch"))


# Recipes


def toml(table: Mapping[str, Any], where: str = "") -> str:
    lines, below = [], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            below.append(f"[{where}{key}]\n{toml(value, f'{where}{key}.')}")
        else:
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join([*lines, *below])


def written(path: Path, recipe: Recipe = RECIPE, **changes: Any) -> Path:
    """The recipe as TOML with other values; `data__patch_px` is patch_px of [data]."""
    table = recipe_as_dict(recipe)
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = table
        for section in sections:
            target = target[section]
        target[key] = value
    path.write_text(toml(table))
    return path


@pytest.mark.parametrize("recipe", [RECIPE, BATCH_NORM], ids=["weight", "batch"])
def test_a_recipe_survives_toml(recipe: Recipe, tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path / "recipe.toml", recipe)) == recipe


def test_what_a_recipe_leaves_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'name = "a"\npatches = 99\nhigh_um_per_px = [0.25, 0.5]\n[generator]\nscale = 2'
    )
    loaded = load_recipe(path)
    assert loaded == Recipe("a", GeneratorSpec(2), 99, (0.25, 0.5))
    assert (loaded.data, loaded.optimizer) == (DataRecipe(), OptimizerRecipe())


def test_the_shipped_recipe_loads() -> None:
    recipe = load_recipe(SHIPPED_RECIPE)
    assert recipe.name == SHIPPED_RECIPE.stem
    assert recipe.generator == GeneratorSpec(4, "weight", 32, bicubic_skip=True)
    assert recipe.data.patch_px == 4 * 32  # attention sees the same extent in training and in use
    assert recipe.data.weights["camelyon16_dldp"] == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"surprise": 1}, "surprise"),
        ({"data__surprise": 1}, "data.surprise"),
        ({"generator__surprise": 1}, "generator.surprise"),
        ({"generator__scale": 3}, "scale 3"),
        ({"generator__window": 3}, "windows of 3 px"),
        ({"generator__window": 16}, "windows of 16 px"),
        ({"data__patch_px": 17}, "patch_px 17"),
        ({"data__patch_px": 0}, "patch_px"),
        ({"data__patch_px": -16}, "patch_px"),
        ({"data__context_px": 3}, "context_px 3"),
        ({"data__context_px": -4}, "context_px"),
        ({"loss": "l3"}, "'l3'"),
        ({"high_um_per_px": [0.5, 0.25]}, "high_um_per_px"),
        ({"high_um_per_px": [0.0, 0.25]}, "high_um_per_px"),
        ({"high_um_per_px": [0.5]}, "high_um_per_px"),
        ({"high_um_per_px": [0.25, 0.5, 1.0]}, "high_um_per_px"),
        ({"batch": 0}, "batch"),
        ({"batch": "two"}, ""),
        ({"batch": 2.5}, "batch"),
        ({"patches": 1}, "patches"),
        ({"validate_every": 1}, "validate_every"),
        ({"generator": 3}, ""),
        ({"name": "a/b"}, "name"),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "recipe.toml", **changes)
    with pytest.raises(RefusedError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"", b"name = 'a'\n"], ids=repr)
def test_what_is_no_recipe_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=r"recipe\.toml"):
        load_recipe(path)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"absent\.toml"):
        load_recipe(tmp_path / "absent.toml")


# Patches


def flat(value: int, height: int = 24, width: int = 24) -> U8:
    return np.full((height, width, 3), value, np.uint8)


def sampler(folder: Path, scale: int = 2, **options: Any) -> PatchSampler:
    return PatchSampler(
        folder, DataRecipe(**{"patch_px": 16, "context_px": 4, **options}), scale=scale
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_patches_are_the_same_for_the_same_generator(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:40, :50], "b/c.png": section[300:340, :44]})
    first, again, other = (
        sampler(folder, stain_jitter=0.2).draw(6, rng(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.high, again.high)
    assert torch.equal(first.low, again.low)
    assert not torch.equal(first.high, other.high)


@pytest.mark.parametrize("scale", [2, 4])
def test_patches_have_the_shape_and_range_they_claim(
    scale: int, tmp_path: Path, save_images: Save, section: U8
) -> None:
    drawn = sampler(save_images(tmp_path, {"a.png": section[:40, :50]}), scale, stain_jitter=0.5)
    pair = drawn.draw(9, rng())
    assert pair.high.shape == (9, 3, 16, 16)
    assert pair.low.shape == (9, 3, 16 // scale, 16 // scale)
    for part in (pair.high, pair.low):
        assert part.dtype == torch.float32
        assert part.min() >= 0
        assert 0.2 < part.max() <= 1
        torch.testing.assert_close((part * 255).round(), part * 255, rtol=0, atol=1e-4)
    assert drawn.megapixels == pytest.approx(40 * 50 / 1e6)


def test_low_resolution_is_that_of_pillow_without_a_border_effect(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    image = section[100:148, 200:248]  # all of it is drawn, turned and mirrored
    drawn = sampler(save_images(tmp_path, {"a.png": image}), 4, patch_px=32, context_px=8)
    turned = [np.rot90(side, turn) for side in (image, image[:, ::-1]) for turn in range(4)]
    seen = set()
    pair = drawn.draw(40, rng())
    for high, low in zip(pair.high.numpy(), pair.low.numpy(), strict=True):
        (which,) = (
            index
            for index, candidate in enumerate(turned)
            if np.array_equal(np.rint(high * 255), candidate[8:40, 8:40].transpose(2, 0, 1))
        )
        expected = bicubic_down(np.ascontiguousarray(turned[which]), 4)[2:10, 2:10]
        assert np.abs(low * 255 - expected.transpose(2, 0, 1)).max() <= 1.001
        seen.add(which)
    assert len(seen) == 8


def test_jpeg_reaches_the_low_resolution_and_only_it(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"a.png": section[:96, :96]})
    clean = sampler(folder).draw(6, rng())
    spoilt = sampler(folder, jpeg_share=1.0, jpeg_quality=(20, 20)).draw(6, rng())
    assert torch.equal(spoilt.high, clean.high)
    changed = (spoilt.low - clean.low).abs().mean(dim=(1, 2, 3)) * 255
    assert ((changed > 0.5) & (changed < 20)).all()


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_downsampling_is_that_of_pillow(scale: int, section: U8) -> None:
    high = section[64:128, 128:224]
    ours = downsample(torch.from_numpy(high).permute(2, 0, 1)[None].float(), scale)
    expected = bicubic_down(high, scale).astype(int)
    assert ours.shape == (1, 3, 64 // scale, 96 // scale)
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_weights_and_areas_are_respected(tmp_path: Path, save_images: Save) -> None:
    folder = save_images(
        tmp_path,
        {"a/1.png": flat(0), "b/1.png": flat(100), "b/2.png": flat(200, 48), "c.png": flat(255)},
    )
    weights = {"a": 0.0, "b": 2.0}  # areas 1, 1, 2 and 1: shares 0, 2/7, 4/7 and 1/7
    drawn = sampler(folder, weights=weights).draw(1400, rng()).high[:, 0, 0, 0] * 255
    values, counts = np.unique(drawn.round().numpy(), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == pytest.approx(
        {100: 400, 200: 800, 255: 200}, abs=80
    )


def test_an_image_smaller_than_what_is_drawn_is_refused(tmp_path: Path, save_images: Save) -> None:
    sampler(save_images(tmp_path, {"a.png": flat(9)}))
    with pytest.raises(RefusedError, match=r"b\.png.*24 px"):
        sampler(save_images(tmp_path, {"b.png": flat(9, 24, 23)}))


def test_a_weight_for_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, save_images: Save
) -> None:
    with pytest.raises(RefusedError, match="'elsewhere'"):
        sampler(save_images(tmp_path, {"a/1.png": flat(9)}), weights={"a": 1, "elsewhere": 2})


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan])
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


def test_a_stain_jitter_of_nothing_changes_nothing(section: U8) -> None:
    np.testing.assert_array_equal(_jitter_stain(section[:64, :64], 0.0, rng()), section[:64, :64])


def test_stain_jitter_changes_tissue_and_keeps_white_white(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    tissue = section[200:224, 300:324]
    jittered = _jitter_stain(tissue, 0.3, rng())
    assert 1 < np.abs(jittered - tissue).mean() < 60
    white = sampler(save_images(tmp_path, {"a.png": flat(255)}), stain_jitter=0.9)
    assert (white.draw(20, rng()).high == 1).all()


# The loop's parts


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe, total = OptimizerRecipe(learning_rate=2.0, warmup=100), 1000
    rates = [learning_rate(recipe, patches, total) for patches in range(total + 1)]
    assert rates[0] == pytest.approx(2 / 100)
    assert rates[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.049)))  # half of 2.0
    assert rates[500] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[:99] == sorted(rates[:99])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert learning_rate(replace(recipe, warmup=0), 0, total) == pytest.approx(2.0)


def test_losses_by_hand() -> None:
    made, high = torch.tensor([0.0, 0.5]), torch.tensor([0.3, 0.1])
    assert float(pixel_loss("l1", made, high)) == pytest.approx((0.3 + 0.4) / 2)
    assert float(pixel_loss("mse", made, high)) == pytest.approx((0.09 + 0.16) / 2)
    roots = [math.sqrt(square + 1e-6) for square in (0.09, 0.16)]
    assert float(pixel_loss("charbonnier", made, high)) == pytest.approx(sum(roots) / 2)
    assert float(pixel_loss("charbonnier", high, high)) == pytest.approx(1e-3)


# Runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, save_images: Save, section: U8) -> Path:
    return save_images(
        tmp_path_factory.mktemp("data"),
        {"a/1.png": section[:64, :64], "a/2.png": section[200:256, 300:372], "b/1.png": flat(230)},
    )


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory, save_images: Save, section: U8) -> Path:
    return save_images(
        tmp_path_factory.mktemp("valid"),
        {"a/1.png": section[400:448, 400:448], "b/1.png": section[:41, 400:451]},
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, data: Path, valid: Path
) -> tuple[Generator, list[Progress], Path]:
    """A run that nothing stopped: its average, its reports, its folder."""
    out, reports = tmp_path_factory.mktemp("run") / "new", list[Progress]()
    return train(RECIPE, data, valid, out, reports.append).generator, reports, out


Finished = tuple[Generator, list[Progress], Path]


def test_a_run_learns(finished: Finished) -> None:
    generator, reports, _ = finished
    assert [report.patches for report in reports] == [20, 40, 60]
    assert reports[-1].loss < 0.8 * reports[0].loss
    assert set(reports[0].psnr_db) == {"a", "b"}
    assert all(reports[-1].psnr_db[name] > reports[0].psnr_db[name] for name in "ab")
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)
    assert not generator.training


def test_bicubic_is_scored_as_by_the_protocol(finished: Finished, valid: Path, section: U8) -> None:
    _, reports, _ = finished
    crops = {"a": section[400:448, 400:448], "b": section[:40, 400:448]}  # whole windows
    for name, high in crops.items():
        score = psnr_db(bicubic_up(bicubic_down(high, 2), 2), high)
        assert reports[0].bicubic_psnr_db[name] == pytest.approx(score, abs=0.05)


class Stopped(Exception):
    """What a power cut is to a run."""


def stop_after(count: int) -> Callable[[Progress], None]:
    reports: list[Progress] = []

    def report(now: Progress) -> None:
        reports.append(now)
        if len(reports) == count:
            raise Stopped

    return report


@pytest.mark.parametrize("stops", [(1,), (2,), (1, 1)], ids=str)
def test_a_stopped_run_goes_on_to_the_same_bits(
    stops: tuple[int, ...], finished: Finished, data: Path, valid: Path, tmp_path: Path
) -> None:
    for count in stops:
        with pytest.raises(Stopped):
            train(RECIPE, data, valid, tmp_path, stop_after(count))
    reports: list[Progress] = []
    generator = train(RECIPE, data, valid, tmp_path, reports.append).generator
    assert reports[0].patches == 20 * (sum(stops) + 1)
    whole, whole_reports, _ = finished
    assert reports[-1].loss == whole_reports[-1].loss
    assert reports[-1].psnr_db == whole_reports[-1].psnr_db
    assert same(generator, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def same(a: Generator, b: Generator) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_another_seed_gives_another_run(
    finished: Finished, data: Path, valid: Path, tmp_path: Path
) -> None:
    short = replace(RECIPE, patches=20, seed=1)
    reports: list[Progress] = []
    train(short, data, valid, tmp_path, reports.append)
    assert reports[0].loss != finished[1][0].loss


def test_a_finished_run_is_not_run_again(finished: Finished, data: Path, valid: Path) -> None:
    generator, _, out = finished
    reports: list[Progress] = []
    assert same(train(RECIPE, data, valid, out, reports.append).generator, generator)
    assert not reports


def test_the_batch_norm_variant_trains_and_resumes(data: Path, valid: Path, tmp_path: Path) -> None:
    whole = train(BATCH_NORM, data, valid, tmp_path / "whole", stop_after(9)).generator
    with pytest.raises(Stopped):
        train(BATCH_NORM, data, valid, tmp_path / "parts", stop_after(1))
    parts = train(BATCH_NORM, data, valid, tmp_path / "parts", stop_after(9)).generator
    assert same(parts, whole)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in whole.state_dict().values())


def test_a_run_of_another_recipe_is_not_gone_on_with(
    finished: Finished, data: Path, valid: Path
) -> None:
    _, _, out = finished
    checkpoint = (out / "checkpoint.pt").read_bytes()
    with pytest.raises(RefusedError, match="another recipe"):
        train(replace(RECIPE, loss="mse"), data, valid, out, stop_after(1))
    assert (out / "checkpoint.pt").read_bytes() == checkpoint


class Explosive:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_checkpoint_with_code_is_refused_and_not_executed(
    data: Path, valid: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "executed"
    torch.save({"recipe": Explosive(trace)}, tmp_path / "checkpoint.pt")
    with pytest.raises(RefusedError, match=r"checkpoint\.pt") as caught:
        train(RECIPE, data, valid, tmp_path, stop_after(1))
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["empty", "text", "half", "other keys", "a list"])
def test_a_broken_checkpoint_is_refused(
    damage: str, finished: Finished, data: Path, valid: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    whole = (finished[2] / "checkpoint.pt").read_bytes()
    if damage in ("other keys", "a list"):
        torch.save({"weights": 1} if damage == "other keys" else [1], path)
    else:
        path.write_bytes({"empty": b"", "text": b"none" * 99, "half": whole[:5000]}[damage])
    with pytest.raises(RefusedError, match=r"checkpoint\.pt") as caught:
        train(RECIPE, data, valid, tmp_path, stop_after(1))
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_stops_the_run(data: Path, valid: Path, tmp_path: Path) -> None:
    wild = replace(RECIPE, optimizer=OptimizerRecipe(learning_rate=1e30, warmup=0))
    with pytest.raises(SlidesrError, match="not a number"):
        train(wild, data, valid, tmp_path, stop_after(9))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_validation_image_without_a_whole_window_is_refused(
    data: Path, tmp_path: Path, save_images: Save
) -> None:
    valid = save_images(tmp_path / "valid", {"a/small.png": flat(9, 40, 7)})
    with pytest.raises(RefusedError, match=r"small\.png"):
        train(RECIPE, data, valid, tmp_path, stop_after(1))


# Finish


def test_a_finished_run_becomes_a_model_with_its_card(
    finished: Finished, data: Path, tmp_path: Path, section: U8
) -> None:
    generator, _, _ = finished
    scores = {"a": {"bicubic": {"psnr_db": 20.5, "ssim": 0.5, "ms_ssim": 0.6, "qilv": 0.1}}}
    spec = described(RECIPE, data, patches=60, seconds=3.6)
    path = write_model(tmp_path / "models", spec, scores, generator)
    assert path == tmp_path / "models/tiny.safetensors"
    model = load_model(str(path))
    assert model.spec.to_json() == replace(spec, scores=scores).to_json()
    assert model.spec.trained_um_per_px == (0.5, 1.0)
    assert model.spec.training["patches"] == 60
    assert model.spec.recipe["optimizer"]["ema"] == 0.9
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = path.with_suffix(".md").read_text()
    assert text == card(model.spec, digest)
    for fact in (digest, "60 patches", "0.5-1 um per pixel", "20.50", "Not for diagnosis"):
        assert fact in text
    _, loaded = read_model(path)
    assert same(loaded, generator)  # so that the scores are those of the file
    low, high = bicubic_down(section[400:448, 400:448], 2), section[400:448, 400:448]
    assert psnr_db(model.enlarge(low), high) > psnr_db(bicubic_up(low, 2), high) - 6


def test_the_terms_of_the_data_come_from_its_manifest(tmp_path: Path) -> None:
    assert described(RECIPE, tmp_path, patches=60, seconds=1).data == {}
    (tmp_path / "manifest.csv").write_text(
        'file,dataset,licence\n1.png,A,CC0\n2.png,A,CC0\n3.png,"B, 2nd",CC BY 4.0\n'
    )
    terms = described(RECIPE, tmp_path, patches=60, seconds=1).data
    assert terms == {"A": "CC0", "B, 2nd": "CC BY 4.0"}


@pytest.mark.parametrize(
    "content",
    [
        b"file,dataset\n1.png,A\n",
        b"file,licence\n1.png,CC0\n",
        b"\xff\xfe\n",
        b"dataset,licence\nA\n",
    ],
    ids=repr,
)
def test_a_manifest_without_terms_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(RefusedError, match=r"manifest\.csv"):
        described(RECIPE, tmp_path, patches=60, seconds=1)
