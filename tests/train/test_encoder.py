"""The perceptual network: what it sees, how it is stored, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slidesr.errors import RefusedError, SlidesrError
from slidesr.model.weights import (
    EncoderHeader,
    find_encoder,
    list_models,
    models_folder,
    read_encoder,
    read_model,
    save_encoder,
)
from slidesr.nets.encoder import Encoder, EncoderSpec, perceptual_distance
from slidesr.train.data import tensor_from_images
from slidesr.train.encoder.export import encoder_card
from slidesr.train.encoder.training import EncoderRecipe, balance
from slidesr.train.encoder.views import degraded
from slidesr.train.recipe import recipe_from_toml

U8 = NDArray[np.uint8]

TINY = EncoderSpec((8, 16, 24))
SHIPPED_RECIPE = Path(__file__).parents[2] / "docs/recipes/histology-encoder.toml"


def made(spec: EncoderSpec, seed: int = 0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder(spec)
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    return encoder.eval()


@pytest.fixture(scope="module")
def shipped() -> Encoder:
    return read_encoder(find_encoder())[1]


@pytest.fixture(scope="module")
def patch(section: U8) -> U8:
    return section[200:296, 300:396]


# The network


def test_the_maps_halve_from_stage_to_stage() -> None:
    maps = Encoder(EncoderSpec())(torch.rand(2, 3, 72, 96))
    assert [tuple(features.shape) for features in maps] == [
        (2, 16, 72, 96),
        (2, 48, 36, 48),
        (2, 96, 18, 24),
        (2, 160, 9, 12),
        (2, 256, 4, 6),
    ]


def test_it_is_small_and_cheap() -> None:
    """At most 2.5 million parameters, and 1.5 G multiplications on a patch of 128 px."""
    encoder = Encoder(EncoderSpec())
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1.5e6
    cost = []

    def count(conv: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        cost.append(conv.weight.numel() * output.shape[2] * output.shape[3])

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    encoder(torch.rand(1, 3, 128, 128))
    assert len(cost) == 10
    assert sum(cost) < 0.5e9


def test_an_image_gives_the_same_maps_in_any_company() -> None:
    encoder, images = made(TINY).double(), torch.rand(3, 3, 20, 24, dtype=torch.float64)
    together, alone = encoder(images), encoder(images[1:2])
    for all_maps, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_maps[1:2], one, rtol=0, atol=1e-12)


def test_a_map_sees_no_further_than_its_kernels() -> None:
    """The last of three stages sees 4 + 8 + 8 = 20 px and its own 4 px to either side, no more."""
    encoder, image = made(TINY).double(), torch.rand(1, 3, 96, 96, dtype=torch.float64)
    changed = image.clone()
    changed[:, :, 48:52, 48:52] = 1 - changed[:, :, 48:52, 48:52]  # pixel (12, 12) of the last map
    differs = (encoder(image)[-1] != encoder(changed)[-1]).any(1)[0]
    rows, columns = (differs.any(axis).nonzero() for axis in (1, 0))
    assert (rows.min(), rows.max()) == (columns.min(), columns.max())
    assert 12 - 4 <= rows.min() < 12 < rows.max() <= 12 + 4


def test_an_image_without_a_pixel_on_the_last_map_is_refused() -> None:
    encoder = Encoder(TINY)
    assert encoder(torch.rand(1, 3, 4, 4))[-1].shape == (1, 24, 1, 1)
    with pytest.raises(ValueError, match="9 x 3 px"):
        encoder(torch.rand(1, 3, 3, 9))


@pytest.mark.parametrize("channels", [(), (8,) * 7, (4,), (12,), (8.0,), (True,), (1024,), [8], 8])
def test_an_absurd_network_is_refused(channels: Any) -> None:
    with pytest.raises(ValueError, match="channels"):
        EncoderSpec(channels)


# The distance


def test_the_distance_is_that_of_lpips() -> None:
    """Against loops over stages and places."""
    encoder = made(TINY)
    a, b = torch.rand(2, 1, 3, 8, 8)
    expected = 0.0
    for x, y in zip(*(map(Tensor.detach, encoder(image)) for image in (a, b)), strict=True):
        _, _, height, width = x.shape
        for row in range(height):
            for column in range(width):
                u, v = x[0, :, row, column], y[0, :, row, column]
                u, v = (w / math.sqrt(float((w * w).sum()) + 1e-4) for w in (u, v))
                expected += float(((u - v) ** 2).sum()) / (height * width)
    assert expected > 0.01
    assert perceptual_distance(encoder, a, b)[0].item() == pytest.approx(expected, rel=1e-4)


def test_equal_images_are_at_no_distance(shipped: Encoder, patch: U8) -> None:
    image = tensor_from_images([patch, patch[::-1].copy()])
    distance = perceptual_distance(shipped, image, image.clone())
    assert distance.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("kind", "strengths"),
    [
        ("blur", [0.5, 1, 2, 3]),
        ("shrink", [2, 4, 8]),
        ("noise", [4, 8, 16, 32]),
        ("jpeg", [80, 50, 25, 10]),
    ],
)
def test_the_shipped_distance_grows_with_the_damage(
    kind: str, strengths: list[float], shipped: Encoder, patch: U8
) -> None:
    rng = np.random.default_rng(0)
    worse = tensor_from_images([degraded(patch, kind, strength, rng) for strength in strengths])
    clean = tensor_from_images([patch]).expand_as(worse)
    distances = perceptual_distance(shipped, clean, worse).tolist()
    assert distances == sorted(distances)
    assert distances[0] > 0
    assert distances[-1] > 3 * distances[0]


def test_blur_is_worse_than_a_shift(shipped: Encoder, section: U8) -> None:
    """Unlike to the mean square error, to which a shift by a pixel is the worse."""
    patch = section[200:296, 300:396]
    aside, blurred = section[200:296, 301:397], degraded(patch, "blur", 1, np.random.default_rng(0))
    images = [tensor_from_images([image]) for image in (patch, aside, blurred)]
    squares = [(image - images[0]).square().mean().item() for image in images]
    assert squares[1] > squares[2]
    distances = [perceptual_distance(shipped, images[0], image).item() for image in images]
    assert distances[1] < distances[2]


def test_it_is_a_loss(shipped: Encoder, patch: U8) -> None:
    """Under bf16, descent on the distance leads from a blurred image towards the sharp one."""
    encoder = read_encoder(find_encoder())[1].requires_grad_(False)
    sharp = tensor_from_images([patch[:48, :48]])
    blurred = tensor_from_images([degraded(patch[:48, :48], "blur", 1.5, np.random.default_rng(0))])
    image = blurred.clone().requires_grad_()
    distances = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            distance = perceptual_distance(encoder, image, sharp)
        (gradient,) = torch.autograd.grad(distance.sum(), image)
        assert torch.isfinite(gradient).all()
        distances.append(distance.item())
        image = (image - 0.01 * gradient / gradient.square().mean().sqrt()).detach()
        image.requires_grad_()
    assert distances[-1] < 0.7 * distances[0]


def test_flat_images_give_finite_gradients() -> None:
    encoder = made(TINY)
    for conv in encoder.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    flat = encoder.mean.expand(1, 3, 16, 16).clone().requires_grad_()  # all features are 0
    distance = perceptual_distance(encoder, flat, torch.rand(1, 3, 16, 16))
    distance.sum().backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_the_embedding_is_the_mean_of_the_last_map() -> None:
    encoder, images = made(TINY), torch.rand(2, 3, 32, 24)
    torch.testing.assert_close(encoder.embedding(images), encoder(images)[-1].mean((2, 3)))
    assert encoder.embedding(images).shape == (2, 24)


def test_balance_changes_the_scale_and_nothing_else() -> None:
    encoder, images = made(TINY).double(), torch.rand(4, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(3)
    before = [features / features.square().mean().sqrt() for features in encoder(images)]
    balance(encoder, images)
    for old, new in zip(before, encoder(images), strict=True):
        assert new.square().mean().item() == pytest.approx(1)
        torch.testing.assert_close(new, old)


# On disk


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_encoder(path, EncoderHeader("tiny", TINY, "CC0", scores={"retrieval": 0.5}), made(TINY))
    return path


def test_an_encoder_comes_back_as_it_was_saved(saved: Path) -> None:
    header, encoder = read_encoder(saved)
    assert header == EncoderHeader("tiny", TINY, "CC0", scores={"retrieval": 0.5})
    assert not encoder.training
    for name, tensor in made(TINY).state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor.half().float())
    again = saved.with_name("again.safetensors")
    save_encoder(again, header, encoder)
    assert again.read_bytes() == saved.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        read_encoder(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(path: Path, header: str, change: dict[str, Tensor] | None = None) -> Path:
    save_file(load_file(path) | (change or {}), path, metadata={"slidesr_encoder": header})
    return path


@pytest.mark.parametrize(
    "encoder",
    [
        None,
        [],
        {"channels": 8},
        {"channels": [8, 10**9]},
        {"channels": ["8"]},
        {"surprise": [8]},
        {"channels": [[8]]},
    ],
    ids=str,
)
def test_a_header_of_no_network_is_refused(encoder: Any, saved: Path) -> None:
    table = json.loads(read_encoder(saved)[0].to_json()) | {"encoder": encoder}
    assert "header is broken" in refusal(rewritten(saved, json.dumps(table)))


def test_a_header_that_is_no_json_is_refused(saved: Path) -> None:
    assert "header is broken" in refusal(rewritten(saved, "{"))


def test_other_weights_than_the_headers_are_refused(saved: Path) -> None:
    header = read_encoder(saved)[0]
    wider = replace(header, encoder=EncoderSpec((8, 16, 32))).to_json()
    assert "has the shape" in refusal(rewritten(saved, wider))
    longer = replace(header, encoder=EncoderSpec((8, 16, 24, 32))).to_json()
    assert "stages.3" in refusal(rewritten(saved, longer))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, saved: Path) -> None:
    header = read_encoder(saved)[0].to_json()
    message = refusal(rewritten(saved, header, {"stages.0.0.bias": torch.full((8,), value)}))
    assert "stages.0.0.bias" in message
    assert "finite" in message


def test_weights_too_large_for_halves_are_not_saved(saved: Path) -> None:
    header, encoder = read_encoder(saved)
    nn.init.constant_(next(encoder.parameters()), 1e5)
    before = saved.read_bytes()
    with pytest.raises(SlidesrError, match="nothing was written"):
        save_encoder(saved, header, encoder)
    assert saved.read_bytes() == before


def test_an_encoder_is_no_model_and_a_model_no_encoder(saved: Path) -> None:
    with pytest.raises(RefusedError, match="an encoder"):
        read_model(saved)
    assert "an upscaling model" in refusal(list_models()[0][0])


# The shipped one


def test_the_shipped_encoder_is_not_among_the_models() -> None:
    assert find_encoder().parent == models_folder()
    assert find_encoder() not in [path for path, _ in list_models()]


def test_the_shipped_encoder_has_its_card_and_its_recipe() -> None:
    header, _ = read_encoder(find_encoder())
    digest = sha256(find_encoder().read_bytes()).hexdigest()
    assert find_encoder().with_suffix(".md").read_text() == encoder_card(header, digest)
    recipe = recipe_from_toml(EncoderRecipe, SHIPPED_RECIPE)
    assert json.loads(json.dumps(asdict(recipe))) == header.recipe
    assert recipe.encoder == header.encoder == EncoderSpec()
    assert header.data
