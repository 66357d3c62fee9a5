"""The network against the paper's numbers, slow twins of its layers, and its promise to tile."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.networks import PRECISIONS, VARIANTS, Make, attention, attention_twin, name_of, noise
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.inference_form import folded, unpadded
from slidesr.nets.layers import (
    SubPixelOutput,
    WideBlock,
    WindowAttention,
    bicubic,
    map_from_windows,
    windows_from_map,
)

PARAMETERS = {2: 763_078, 4: 910_791, 8: 1_058_504, 16: 1_206_217}
WEIGHT_NORM_GAINS = 3_032


def count(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


# The paper's network


@pytest.mark.parametrize(("scale", "parameters"), PARAMETERS.items())
def test_the_paper_variant_has_its_parameters(scale: int, parameters: int) -> None:
    generator = Generator(GeneratorSpec(scale))
    assert count(generator) == parameters
    plain = folded(generator)
    same_but_output = count(plain) - count(plain.output)
    slopes = 1 + generator.spec.stages  # of PReLU; they are arguments of the fused convolutions
    assert same_but_output == parameters - count(generator.output) - WEIGHT_NORM_GAINS - slopes


def test_the_paper_variant_sees_14_pixels_before_the_attention() -> None:
    assert GeneratorSpec(4).features_radius_px == 14


@pytest.mark.parametrize(
    ("window", "name", "parameters"), [(64, "A-SRGAN", 961_759), (0, "SRGAN", 956_558)]
)
def test_the_baselines_have_their_parameters(window: int, name: str, parameters: int) -> None:
    spec = GeneratorSpec(4, norm="batch", window=window, block="plain")
    assert spec.architecture == name
    assert sum(tensor.numel() for tensor in Generator(spec).parameters()) == parameters
    assert spec.features_radius_px == 4 + 8 * 2 + 1


def test_the_plain_block_is_laid_out_as_described() -> None:
    generator = Generator(GeneratorSpec(4, norm="batch", window=0, block="plain"))
    assert isinstance(generator.attention, nn.Identity)
    assert len(generator.body) == 8
    for block in generator.body:
        kinds = [type(layer) for layer in block.residual]  # type: ignore[union-attr]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.PReLU, nn.Conv2d, nn.BatchNorm2d]
    fuse: Any = generator.fuse
    assert tuple(fuse[0].weight.shape) == (64, 64, 3, 3)
    assert isinstance(fuse[1], nn.BatchNorm2d)


def test_the_batch_norm_block_is_laid_out_as_described() -> None:
    generator = Generator(GeneratorSpec(4, norm="batch"))
    assert len(generator.body) == 8
    for block in generator.body:
        assert isinstance(block, WideBlock)
        layers: list[Any] = list(block.residual)
        expand, norm, prelu, reduce, spread, last = layers
        assert [type(layer) for layer in (norm, prelu, last)] == [
            nn.BatchNorm2d,
            nn.PReLU,
            nn.BatchNorm2d,
        ]
        shapes = [tuple(conv.weight.shape) for conv in (expand, reduce, spread)]
        assert shapes == [(256, 64, 1, 1), (51, 256, 1, 1), (64, 51, 3, 3)]
        assert (norm.num_features, last.num_features) == (256, 64)
    after: list[Any] = list(generator.fuse)
    fuse, norm = after
    assert tuple(fuse.weight.shape) == (64, 64, 5, 5)
    assert isinstance(norm, nn.BatchNorm2d)


def test_no_batch_norm_in_the_weight_norm_variant() -> None:
    assert not any(isinstance(part, nn.BatchNorm2d) for part in Generator(VARIANTS[0]).modules())


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_the_output_is_larger_by_the_scale(spec: GeneratorSpec, trained_looking: Make) -> None:
    with torch.inference_mode():
        made = trained_looking(spec)(noise(2, 3, 8, 16))
    assert made.shape == (2, 3, 8 * spec.scale, 16 * spec.scale)


def test_without_the_skip_the_output_lies_in_0_to_1(trained_looking: Make) -> None:
    with torch.inference_mode():
        made = trained_looking(VARIANTS[2])(100 * noise(1, 3, 8, 8) - 50)
    assert made.min() >= 0
    assert made.max() <= 1


def test_the_skip_adds_a_bicubic_enlargement(trained_looking: Make) -> None:
    generator = trained_looking(VARIANTS[0])
    nn.init.zeros_(generator.output.conv.weight)
    nn.init.constant_(generator.output.conv.bias, 0.25)  # type: ignore[arg-type]
    low = noise(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(generator(low), bicubic(low, 4) + 0.25)


def paper_twin(generator: Generator, x: Tensor) -> Tensor:
    """The layers one after another, in the paper's order and without the skip."""
    net: Any = generator
    head = net.head[1](F.conv2d(x, net.head[0].weight, net.head[0].bias, padding=4))
    maps = head
    for block in net.body:
        residual = maps
        for layer in block.residual:
            residual = layer(residual)
        maps = maps + residual
    maps = head + net.fuse(maps)
    if generator.spec.window:
        maps = attention_twin(net.attention, maps)
    for conv, prelu in net.up:
        maps = prelu(F.pixel_shuffle(conv(maps), 2))
    last = net.output.conv
    return F.conv2d(maps, last.weight, last.bias, padding=4)


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_the_network_is_the_paper_s(spec: GeneratorSpec, trained_looking: Make) -> None:
    generator = trained_looking(spec).double()
    low = noise(2, 3, 8, 16, dtype=torch.float64)
    with torch.inference_mode():
        image = paper_twin(generator, low)
        expected = image + bicubic(low, spec.scale) if spec.bicubic_skip else (image.tanh() + 1) / 2
        made = generator(low).double()
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12 if spec.bicubic_skip else 1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 3},
        {"norm": "group"},
        {"block": "dense"},
        {"window": -1},
        {"window": 257},
        {"channels": 12},
        {"channels": 10**9},
        {"channels": 0},
        {"blocks": 0},
        {"blocks": 10**9},
        {"expansion": 0},
        {"expansion": 10**9},
    ],
    ids=str,
)
def test_a_spec_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        GeneratorSpec(**{"scale": 4, **wrong})


# Layers against their twins


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize(("window", "height", "width"), [(4, 8, 12), (1, 3, 2), (6, 6, 6)], ids=str)
def test_attention_is_a_softmax_inside_each_window(
    window: int, height: int, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    layer = attention(16, window, dtype)
    x = 4 * noise(2, 16, height, width, dtype=dtype) - 2
    torch.testing.assert_close(layer(x), attention_twin(layer, x), rtol=0, atol=tolerance)


def test_a_window_as_large_as_the_map_is_global_attention() -> None:
    layer = attention(16, 8, torch.float64)
    x = 4 * noise(1, 16, 8, 8, dtype=torch.float64) - 2
    changed = x.clone()
    changed[0, :, 0, 0] += 1
    everywhere = (layer(changed) - layer(x)).abs().amax(dim=(0, 1))
    assert everywhere.min() > 0
    torch.testing.assert_close(layer(x), attention_twin(layer, x), rtol=0, atol=1e-12)


def test_attention_does_not_leave_its_window() -> None:
    layer = attention(16, 4, torch.float64)
    x = noise(1, 16, 8, 8, dtype=torch.float64)
    changed = x.clone()
    changed[0, :, 1, 6] += 1
    moved = (layer(changed) != layer(x)).any(dim=1)[0]
    assert moved[:4, 4:].all()
    assert not moved[4:].any()
    assert not moved[:, :4].any()


def test_attention_starts_as_the_identity() -> None:
    x = noise(1, 16, 8, 8)
    assert torch.equal(WindowAttention(16, 4)(x), x)


def test_windows_go_row_by_row_and_come_back() -> None:
    x = noise(2, 5, 6, 9)
    tokens = windows_from_map(x, 3)
    assert tokens.shape == (2 * 2 * 3, 1, 9, 5)
    assert torch.equal(tokens[6 + 1, 0, 3], x[1, :, 1, 3])  # image 1, window 1, second row
    assert torch.equal(map_from_windows(tokens, x.shape, 3), x)


@pytest.mark.parametrize("shape", [(7, 6), (6, 7)])
def test_a_map_that_is_no_whole_number_of_windows_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="whole number of 3 px windows"):
        windows_from_map(noise(1, 5, *shape), 3)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation and keeps the size of the largest tensor that one made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_attention_never_stores_its_scores(dtype: torch.dtype) -> None:
    layer = attention(16, 32, dtype)
    x = noise(1, 16, 32, 64, dtype=torch.float32).to(dtype)
    with LargestTensor() as largest, torch.inference_mode():
        layer(x)
    scores_of_a_window = (32 * 32) ** 2
    assert x.numel() <= largest.elements <= 2 * x.numel() < scores_of_a_window


@pytest.mark.parametrize("kernel", [1, 5, 9])
def test_the_output_layer_is_a_convolution_behind_the_shuffle(kernel: int) -> None:
    layer = SubPixelOutput(6, kernel).double()
    x = noise(2, 24, 7, 5, dtype=torch.float64)
    plain = F.conv2d(F.pixel_shuffle(x, 2), layer.conv.weight, layer.conv.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_bicubic_is_that_of_pillow(scale: int) -> None:
    low = np.random.default_rng(0).random((13, 11), np.float32)
    size = (11 * scale, 13 * scale)
    pillow = np.array(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))
    ours = bicubic(torch.from_numpy(low)[None, None], scale)[0, 0].numpy()
    np.testing.assert_allclose(ours, pillow, rtol=0, atol=2e-6)


# Folding


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_folding_changes_nothing_but_the_operations(
    spec: GeneratorSpec, trained_looking: Make
) -> None:
    generator = trained_looking(spec)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    ready = folded(generator)
    low = noise(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(ready(low), generator(low), rtol=0, atol=1e-5)
    after = generator.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in ready.modules())
    assert not any("parametrizations" in name for name, _ in ready.named_parameters())
    shared = {p.data_ptr() for p in generator.parameters()}
    assert shared.isdisjoint(p.data_ptr() for p in ready.parameters())


@pytest.mark.parametrize("beyond", [0, 3])
@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_without_padding_the_core_is_the_same(
    spec: GeneratorSpec, beyond: int, trained_looking: Make
) -> None:
    generator = trained_looking(spec)
    sides = (2 * spec.grid_px + 2 * spec.halo_for(beyond), spec.grid_px + 2 * spec.halo_for(beyond))
    low = noise(2, 3, *sides)
    with torch.inference_mode():
        core = unpadded(folded(generator)).core(low, beyond)
        torch.testing.assert_close(core, generator.core(low, beyond), rtol=0, atol=1e-5)


def test_folding_in_training_mode_leaves_it_in_training_mode(trained_looking: Make) -> None:
    generator = trained_looking(VARIANTS[1]).train()
    assert not folded(generator).training
    assert all(part.training for part in generator.modules())


# Halo and core


def reach(generator: Generator, maps: Tensor, sources: Tensor) -> tuple[int, int, int, int]:
    """The first and last row and column of `sources` that `maps` depends on."""
    (gradient,) = torch.autograd.grad((maps * noise(*maps.shape, seed=9)).sum(), sources)
    rows = gradient.abs().amax(dim=(0, 1, 3)).nonzero()
    columns = gradient.abs().amax(dim=(0, 1, 2)).nonzero()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_features_reach_exactly_their_radius(spec: GeneratorSpec, trained_looking: Make) -> None:
    generator, radius = trained_looking(spec).double(), spec.features_radius_px
    side = 2 * radius + 5
    sources = noise(1, 3, side, side, dtype=torch.float64).requires_grad_()
    pixel = generator._features(sources)[:, :, radius + 2, radius + 2]
    assert reach(generator, pixel, sources) == (2, side - 3, 2, side - 3)


@pytest.mark.parametrize(
    ("scale", "window"), [(2, 1), (2, 4), (4, 1), (4, 2), (4, 8), (8, 4), (16, 1)]
)
def test_a_tile_reaches_exactly_its_halo(scale: int, window: int, trained_looking: Make) -> None:
    """A pixel more would be read for nothing, a pixel less would leave a seam."""
    spec = GeneratorSpec(scale, "weight", window, bicubic_skip=True, channels=8, blocks=1)
    generator = trained_looking(spec).double()
    first = -(-(spec.halo_px + 1 + spec.phase_px) // window)  # window of the tile's border
    start = first * window - spec.phase_px
    side = 2 * start + window
    sources = noise(1, 3, side, side, dtype=torch.float64).requires_grad_()
    tile = slice(start * scale, (start + window) * scale)
    made = generator(sources)[:, :, tile, tile]
    first, last = start - spec.halo_px, start + window + spec.halo_px - 1
    assert reach(generator, made, sources) == (first, last, first, last)


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_tiles_are_the_middle_of_the_whole(spec: GeneratorSpec, trained_looking: Make) -> None:
    generator = trained_looking(spec).double()
    halo, window, cells = spec.halo_px, spec.grid_px, 3
    first = -(-(halo + spec.phase_px) // window)  # the first window no border of the map reaches
    start = first * window - spec.phase_px
    whole = noise(1, 3, *[(2 * first + cells) * window] * 2, dtype=torch.float64)
    with torch.inference_mode():
        high = generator(whole)
    tolerance = 1e-12 if spec.bicubic_skip else 1e-6  # tanh is taken in fp32

    @settings(max_examples=8, deadline=None)
    @given(rows=parts(cells, 1), columns=parts(cells, 1))
    def check(rows: tuple[int, int], columns: tuple[int, int]) -> None:
        box = tuple((start + a * window, start + b * window) for a, b in (rows, columns))
        core = generator.core(cut(whole, box, halo))
        torch.testing.assert_close(core, cut(high, box, 0, spec.scale), rtol=0, atol=tolerance)

    with torch.inference_mode():
        check()


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_wide_tiles_are_the_whole_bit_for_bit(
    spec: GeneratorSpec, dtype: torch.dtype, trained_looking: Make
) -> None:
    """From 64 px with the halo on: narrower maps get kernels that add up in another order."""
    ready = unpadded(folded(trained_looking(spec), dtype))
    halo, window = spec.halo_px, spec.grid_px
    cells, least = 80 // window, 48 // window
    side = cells * window + 2 * halo
    assert least * window + 2 * halo >= 64

    @cache
    def whole(image: int) -> tuple[Tensor, Tensor]:
        low = noise(1, 3, side, side, seed=image).to(memory_format=torch.channels_last)
        return low, ready.core(low)

    @settings(max_examples=8, deadline=None)
    @given(image=st.integers(0, 1), rows=parts(cells, least), columns=parts(cells, least))
    def check(image: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        low, high = whole(image)
        box = tuple((halo + a * window, halo + b * window) for a, b in (rows, columns))
        tile = cut(low, box, halo).contiguous(memory_format=torch.channels_last)
        inside = tuple((a - halo, b - halo) for a, b in box)
        part, core = cut(high, inside, 0, spec.scale), ready.core(tile)
        assert torch.equal(core, part), f"differs by {(core - part).abs().max()}"

    with torch.inference_mode():
        check()


def parts(cells: int, least: int) -> st.SearchStrategy[tuple[int, int]]:
    """The first window of a part of `cells` windows, and the one after its last."""
    starts = st.integers(0, cells - least)
    return starts.flatmap(lambda a: st.tuples(st.just(a), st.integers(a + least, cells)))


def cut(x: Tensor, box: tuple[tuple[int, int], ...], halo: int, scale: int = 1) -> Tensor:
    """The rows and columns of `box` with `halo` around them, all times `scale`."""
    (top, bottom), (left, right) = ((scale * (a - halo), scale * (b + halo)) for a, b in box)
    return x[:, :, top:bottom, left:right]
