"""Each loss against a slow and obvious twin, and what must pull nowhere."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slidesr.errors import RefusedError
from slidesr.model.imagenet import vgg19_features
from slidesr.nets.generator import GeneratorSpec
from slidesr.nets.losses import (
    border_detail_loss,
    border_loss,
    colour_consistency,
    frequency_loss,
    grid_loss,
    pixel_loss,
    total_variation,
)
from slidesr.train.objective import Objective
from slidesr.train.recipe import LossRecipe

PIXEL_LOSSES = ["l1", "mse", "charbonnier"]
TWO_IMAGE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda made, high: pixel_loss("l1", made, high),
    "mse": lambda made, high: pixel_loss("mse", made, high),
    "charbonnier": lambda made, high: pixel_loss("charbonnier", made, high),
    "frequency": frequency_loss,
    "border": lambda made, high: border_loss(made, high, 8),
    "border_detail": lambda made, high: border_detail_loss(made, in_windows(high, 8), 8),
    "colour": lambda made, high: colour_consistency(made, high[:, :, ::2, ::2], 2),
}
# torchvision.models.vgg19().features: where its convolutions stand, and what they take and give
VGG19 = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512),
    25: (512, 512), 28: (512, 512), 30: (512, 512), 32: (512, 512), 34: (512, 512),
}  # fmt: skip
VGG19_POOLINGS = {4, 9, 18, 27, 36}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def in_windows(image: Tensor, window_px: int) -> Tensor:
    """Plain windows, so that all detail is on their borders."""
    corners = image[:, :, ::window_px, ::window_px]
    return corners.repeat_interleave(window_px, 2).repeat_interleave(window_px, 3)


def slope(loss: Tensor, image: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, image)
    return gradient


# Images


def test_pixel_losses_by_hand() -> None:
    made, high = torch.tensor([0.0, 0.5]), torch.tensor([0.3, 0.1])
    assert float(pixel_loss("l1", made, high)) == pytest.approx((0.3 + 0.4) / 2)
    assert float(pixel_loss("mse", made, high)) == pytest.approx((0.09 + 0.16) / 2)
    roots = [math.sqrt(square + 1e-6) for square in (0.09, 0.16)]
    assert float(pixel_loss("charbonnier", made, high)) == pytest.approx(sum(roots) / 2)
    assert float(pixel_loss("charbonnier", high, high)) == pytest.approx(1e-3)


def test_an_unknown_pixel_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="pixel loss 'l2' is not one of l1, mse, charbonnier"):
        pixel_loss("l2", noise(1), noise(1))


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_equal_images_pull_nowhere(name: str) -> None:
    made = noise(2, 3, 4, 4).requires_grad_()
    assert not slope(pixel_loss(name, made, made.detach()), made).any()


@pytest.mark.parametrize("name", TWO_IMAGE_LOSSES)
def test_every_loss_pulls_the_made_image_where_the_true_one_is(name: str) -> None:
    loss = TWO_IMAGE_LOSSES[name]
    high = noise(2, 3, 16, 16)
    made = (high + 0.2 * noise(2, 3, 16, 16, seed=1)).requires_grad_()
    before = loss(made, high)
    with torch.no_grad():
        gradient = slope(before, made)
        assert loss(made - 1e-3 * gradient / gradient.abs().max(), high) < before
    assert before.dtype == torch.float32
    assert before.shape == ()


@pytest.mark.parametrize("name", TWO_IMAGE_LOSSES)
def test_every_loss_takes_bf16_under_autocast(name: str) -> None:
    loss = TWO_IMAGE_LOSSES[name]
    made, high = (
        noise(2, 3, 16, 16, seed=seed).to(memory_format=torch.channels_last) for seed in (1, 2)
    )
    made.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(made.bfloat16(), high.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, loss(made, high), rtol=0.02, atol=0)
    assert slope(rounded, made).isfinite().all()


def test_total_variation_by_loops() -> None:
    image = noise(2, 3, 4, 6)
    n, c, h, w = image.shape
    down = [
        float((image[i, j, y + 1, x] - image[i, j, y, x]) ** 2)
        for i, j, y, x in product(range(n), range(c), range(h - 1), range(w))
    ]
    across = [
        float((image[i, j, y, x + 1] - image[i, j, y, x]) ** 2)
        for i, j, y, x in product(range(n), range(c), range(h), range(w - 1))
    ]
    published = 2 * (sum(down) / (c * (h - 1) * w) + sum(across) / (c * h * (w - 1))) / n
    assert float(total_variation(image)) == pytest.approx(published)


def test_total_variation_takes_bf16() -> None:
    image = noise(1, 3, 8, 8)
    rounded = total_variation(image.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, total_variation(image), rtol=0.02, atol=0)


def test_a_flat_image_has_no_variation() -> None:
    flat = torch.full((1, 3, 4, 4), 0.6).requires_grad_()
    assert total_variation(flat) == 0
    assert not slope(total_variation(flat), flat).any()


def haar_by_loops(image: list[list[float]], gap: int, signs: tuple[int, int]) -> list[list[float]]:
    """Four pixels `gap` apart, those below and those to the right with their signs; their half."""
    down, right = signs
    return [
        [
            (image[y][x] + right * image[y][x + gap]) / 2
            + down * (image[y + gap][x] + right * image[y + gap][x + gap]) / 2
            for x in range(len(image[0]) - gap)
        ]
        for y in range(len(image) - gap)
    ]


def test_frequencies_by_loops() -> None:
    made, high = noise(1, 1, 6, 7), noise(1, 1, 6, 7, seed=1)
    rest = (made - high)[0, 0].tolist()
    expected = 0.0
    for gap in (1, 2):
        for signs in [(-1, 1), (1, -1), (-1, -1)]:
            expected += np.abs(haar_by_loops(rest, gap, signs)).mean() / 3
        rest = haar_by_loops(rest, gap, (1, 1))
    assert float(frequency_loss(made, high)) == pytest.approx(expected)


def test_a_chequerboard_is_all_diagonal_detail_of_the_first_octave() -> None:
    board = 0.3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert float(frequency_loss(board, torch.zeros(1, 1, 8, 8))) == pytest.approx(2 * 0.3 / 3)


def test_frequencies_leave_colour_alone() -> None:
    high = noise(2, 3, 8, 8)
    assert float(frequency_loss(high + 0.25, high)) == pytest.approx(0, abs=1e-7)


def test_equal_frequencies_pull_nowhere() -> None:
    made = noise(1, 3, 8, 8).requires_grad_()
    assert not slope(frequency_loss(made, made.detach()), made).any()


# Colour


@pytest.mark.parametrize("scale", [2, 4])
def test_colour_by_loops(scale: int) -> None:
    low, made = noise(2, 3, 16, 24), noise(2, 3, 16 * scale, 24 * scale, seed=1)
    big = 8 * scale
    distances = [
        abs(
            float(made[i, c, big * y : big * (y + 1), big * x : big * (x + 1)].mean())
            - float(low[i, c, 8 * y : 8 * (y + 1), 8 * x : 8 * (x + 1)].mean())
        )
        for i, c, y, x in product(range(2), range(3), range(2), range(3))
    ]
    loss = float(colour_consistency(made, low, scale))
    assert loss == pytest.approx(sum(distances) / len(distances), rel=1e-5)


def test_a_shift_of_colour_costs_itself_and_detail_costs_nothing() -> None:
    low = torch.full((1, 3, 8, 8), 0.5)
    detail = torch.tensor([0.25, -0.25]).repeat(8)
    made = low.repeat_interleave(2, 2).repeat_interleave(2, 3) + detail
    assert colour_consistency(made, low, 2) == 0
    assert float(colour_consistency(made + 0.125, low, 2)) == 0.125


def test_a_small_patch_is_one_box() -> None:
    low, made = noise(1, 3, 4, 6), noise(1, 3, 64, 96, seed=1)
    expected = (made[:, :, :, :64].mean((2, 3)) - low[:, :, :, :4].mean((2, 3))).abs().mean()
    torch.testing.assert_close(colour_consistency(made, low, 16), expected)


def test_colour_is_finer_than_bf16() -> None:
    low = torch.full((1, 3, 8, 8), 0.5)
    made = torch.tensor([0.5, 0.5 + 2**-8]).repeat(8).expand(1, 3, 16, 16).bfloat16()
    assert float(colour_consistency(made, low, 2)) == 2**-9


def test_a_grid_of_sub_pixels_costs_itself_and_true_texture_nearly_nothing() -> None:
    texture = 0.5 + 0.1 * (noise(2, 3, 128, 128) - 0.5)
    grid = torch.tensor([0.125, -0.125]).repeat(64)
    for scale in (2, 4, 8):
        calm, striped = (float(grid_loss(image, scale)) for image in (texture, texture + grid))
        assert calm < 0.006
        assert striped == pytest.approx(0.125, abs=0.004)
    slow = texture[:, :, :64, :64].unfold(2, 4, 4).unfold(3, 4, 4)  # [n, 3, 16, 16, 4, 4]
    boxes = slow.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2))  # [n, 3, 2, 2, 4, 4]
    spread = (boxes - boxes.mean((-1, -2), keepdim=True)).abs().mean()
    odd = (torch.arange(64) + torch.arange(64)[:, None]) % 2
    signed = (texture[:, :, :64, :64] * (1 - 2 * odd)).unfold(2, 8, 8).unfold(3, 8, 8)
    expected = spread + signed.mean((-1, -2)).abs().mean()
    torch.testing.assert_close(grid_loss(texture[:, :, :64, :64], 4), expected)


def test_a_checkerboard_of_changing_sign_costs_itself() -> None:
    odd = (torch.arange(64) + torch.arange(64)[:, None]) % 2
    checkers = 0.125 * (1 - 2.0 * odd).expand(1, 3, 64, 64)
    torch.testing.assert_close(grid_loss(checkers, 2), torch.tensor(2 * 0.125))
    changing = torch.cat([checkers[..., :32], -checkers[..., :32]], dim=3)
    torch.testing.assert_close(grid_loss(changing, 2), torch.tensor(2 * 0.125))
    averaged = torch.cat([checkers[..., :8], -checkers[..., :8]], dim=3).tile(4)
    torch.testing.assert_close(grid_loss(averaged, 2), torch.tensor(0.125))


def test_a_window_costs_what_it_is_shifted_by() -> None:
    high = noise(1, 3, 96, 64)  # 3 x 2 windows of 32 px, with 7 borders in all
    made = high.clone()
    assert border_loss(made, high, 32) == 0
    made[:, :, :32, :32] += 0.25  # a corner: 2 borders
    torch.testing.assert_close(border_loss(made, high, 32), torch.tensor(0.25 * 2 / 7))
    made[:, :, :32, 32:] += 0.25  # a whole row: 2 borders as well
    torch.testing.assert_close(border_loss(made, high, 32), torch.tensor(0.25 * 2 / 7))
    made[:, :, 32:] += 0.25  # all of it: a matter of colour, not of borders
    torch.testing.assert_close(border_loss(made, high, 32), torch.tensor(0.0))


def test_a_border_is_seen_through_texture() -> None:
    high, made = noise(4, 3, 64, 64), noise(4, 3, 64, 64, seed=1)
    windows = torch.tensor([[0.0, 0.1], [0.1, 0.0]]).repeat_interleave(32, 0)
    calm, stepped = (
        float(border_loss(image, high, 32))
        for image in (made, made + windows.repeat_interleave(32, 1))
    )
    assert calm < 0.05
    assert stepped > calm + 0.05


def test_detail_on_borders_is_to_be_as_strong_as_elsewhere() -> None:
    """As strong as in the original: how strong it is everywhere is for other losses."""
    high = noise(2, 3, 96, 64)
    assert border_detail_loss(high, high, 32) == 0
    torch.testing.assert_close(border_detail_loss(high / 4, high, 32), torch.tensor(0.0))
    for seam in (31, 63):  # the last pixels of a window, which now go over into the next one
        smooth = high.clone()
        smooth[:, :, seam] = smooth[:, :, (seam + 1) % 96]
        assert border_detail_loss(smooth, high, 32) > 0.05
        inside = high.clone()
        inside[:, :, seam - 9] = inside[:, :, seam - 8]
        assert border_detail_loss(inside, high, 32) < 0.001


def test_detail_on_borders_of_a_blank_image_has_a_slope() -> None:
    blank = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    assert slope(border_detail_loss(blank, noise(1, 3, 64, 64), 32), blank).isfinite().all()


def test_a_single_window_has_no_border() -> None:
    made = noise(1, 3, 32, 32).requires_grad_()
    assert border_loss(made, noise(1, 3, 32, 32, seed=1), 32) == 0


# Features


# VGG19


def averaging_state() -> dict[str, Tensor]:
    """Weights with which every convolution gives the 3x3 mean of its channels' mean."""
    state = {}
    for place, (channels, wider) in VGG19.items():
        share = torch.full((1,), 1 / (9 * channels))
        state[f"features.{place}.weight"] = share.expand(wider, channels, 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(1).expand(wider)
    return state


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({**averaging_state(), "classifier.0.weight": noise(2, 25088)}, path)
    return path


@pytest.fixture(scope="module")
def published_vgg19(vgg19_file: Path) -> nn.Module:
    return vgg19_features(vgg19_file, normalised=False)


def test_vgg19_has_its_layers(published_vgg19: nn.Module) -> None:
    layers = dict(published_vgg19.get_submodule("features").named_children())
    assert len(layers) == 37
    shapes = {
        int(name): (layer.in_channels, layer.out_channels)
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d)
    }
    assert shapes == VGG19
    assert {
        int(name) for name, layer in layers.items() if isinstance(layer, nn.MaxPool2d)
    } == VGG19_POOLINGS
    assert sum(parameter.numel() for parameter in published_vgg19.parameters()) == 20_024_384


def test_vgg19_by_a_twin_of_one_channel(published_vgg19: nn.Module) -> None:
    image = noise(1, 3, 64, 32)
    expected = image.mean(1, keepdim=True)
    for place in range(37):
        if place in VGG19:
            expected = nn.functional.avg_pool2d(expected, 3, 1, 1)
        if place in VGG19_POOLINGS:
            expected = nn.functional.max_pool2d(expected, 2)
    with torch.inference_mode():
        (features,) = published_vgg19(image)
    torch.testing.assert_close(features, expected.expand(1, 512, 2, 1), rtol=1e-4, atol=1e-6)


def test_normalised_vgg19_sees_images_as_it_was_trained(
    vgg19_file: Path, published_vgg19: nn.Module
) -> None:
    image = 0.5 + noise(1, 3, 32, 32) / 2
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        (normalised,) = vgg19_features(vgg19_file, normalised=True)(image)
        (by_hand,) = published_vgg19((image - mean) / std)
        (as_published,) = published_vgg19(image)
    torch.testing.assert_close(normalised, by_hand)
    assert (normalised > 1.5 * as_published).all()


def test_the_published_perceptual_loss(vgg19_file: Path, published_vgg19: nn.Module) -> None:
    recipe = LossRecipe(vgg19_weight=2e-6, vgg19_normalised=False)
    spec, cpu = GeneratorSpec(2, "weight", 4), torch.device("cpu")
    objective = Objective(recipe, spec, cpu, vgg19=vgg19_file)
    made, high = noise(2, 3, 32, 32).requires_grad_(), noise(2, 3, 32, 32, seed=1)
    (ours,), (theirs,) = published_vgg19(made), published_vgg19(high)
    seen = objective.seen(made), objective.seen(high)
    value = objective.losses(*seen, high[..., ::2, ::2])["vgg19"]
    torch.testing.assert_close(value, 2e-6 * ((ours - theirs) ** 2).mean())
    assert slope(value, made).isfinite().all()
    networks = objective._networks.values()
    assert not any(part.training for network in networks for part in network.modules())
    assert not any(p.requires_grad for network in networks for p in network.parameters())


def test_an_old_file_of_torch_is_read(tmp_path: Path) -> None:
    torch.save(
        averaging_state(), path := tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )
    assert vgg19_features(path, normalised=True)


class Code:
    """Would write a file, were it ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def write_no_weights(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("weights")
    if kind == "empty":
        path.touch()
    if kind == "a tensor":
        torch.save(noise(3), path)
    if kind == "another network":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    if kind == "another width":
        state = averaging_state()
        torch.save({**state, "features.0.weight": noise(64, 1, 3, 3)}, path)
    if kind == "code":
        path.write_bytes(pickle.dumps({"a": Code(path.with_name("touched"))}, protocol=2))


@pytest.mark.parametrize(
    "kind", ["missing", "text", "empty", "a tensor", "another network", "another width", "code"]
)
def test_what_is_no_vgg19_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write_no_weights(path, kind)
    with pytest.raises(RefusedError, match=r"weights\.pth: not VGG19 weights\. Give a file"):
        vgg19_features(path, normalised=True)
    assert not (tmp_path / "touched").exists()
