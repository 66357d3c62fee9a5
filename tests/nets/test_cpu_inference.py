"""A generator at work: rows, memory that is taken over, attention by powers of two."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from support.networks import PRECISIONS, VARIANTS, Make, attention, attention_twin, name_of, noise
from torch import Tensor, nn

from slidesr.nets import cpu_inference as ready
from slidesr.nets.generator import GeneratorSpec
from slidesr.nets.inference_form import _take_powers_of_2, folded, unpadded
from slidesr.nets.layers import WindowAttention


def tile(spec: GeneratorSpec, rows: int, columns: int, seed: int = 0) -> Tensor:
    """With its halo; from 64 px on kernels do not depend on the width."""
    sides = (cells * spec.grid_px + 2 * spec.halo_px for cells in (rows, columns))
    return noise(1, 3, *sides, seed=seed).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_rows_are_the_whole_bit_for_bit(
    spec: GeneratorSpec,
    dtype: torch.dtype,
    trained_looking: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = unpadded(folded(trained_looking(spec), dtype))
    low = tile(spec, 80 // spec.grid_px, 80 // spec.grid_px)
    with torch.inference_mode():
        monkeypatch.setattr(ready, "_MOST_VALUES", 1 << 60)
        whole = generator.core(low)
        for most in (1 << 16, 1 << 17):
            monkeypatch.setattr(ready, "_MOST_VALUES", most)
            assert torch.equal(generator.core(low), whole)


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_a_tile_leaves_nothing_to_the_next(spec: GeneratorSpec, trained_looking: Make) -> None:
    trained = trained_looking(spec)
    used = unpadded(folded(trained))
    cells = 16 // spec.grid_px
    tiles = [tile(spec, *sides, seed=seed) for seed, sides in enumerate([(2, 3), (1, 1), (3, 2)])]
    tiles = [tile(spec, 2 * cells, cells, seed=5), *tiles, tile(spec, 2 * cells, cells, seed=6)]
    with torch.inference_mode():
        made = [used.core(low) for low in tiles]
        for low, high in zip(tiles, made, strict=True):
            assert torch.equal(unpadded(folded(trained)).core(low), high)


def test_memory_is_that_of_the_largest_tile(trained_looking: Make) -> None:
    generator = folded(trained_looking(VARIANTS[0]))
    unpadded(generator)

    def kept() -> dict[str, int]:
        return {name: memory.data_ptr() for name, memory in generator._memory._kept.items()}

    with torch.inference_mode():
        generator.core(tile(generator.spec, 4, 4))
        before = kept()
        generator.core(tile(generator.spec, 4, 3))
        generator.core(tile(generator.spec, 1, 4))
    assert set(before) == {"features", "body", "inner"}
    assert kept() == before


def test_memory_may_be_written_outside_of_inference_mode(trained_looking: Make) -> None:
    generator = unpadded(folded(trained_looking(VARIANTS[0])))
    low = tile(generator.spec, 2, 2)
    with torch.inference_mode():
        made = generator.core(low)
    with torch.no_grad():
        assert torch.equal(generator.core(low), made)


@pytest.mark.parametrize("tokens", [8 * 8, 16 * 16, 30 * 30, 32 * 32, 62 * 62, 64 * 64])
def test_a_window_is_attended_alike_alone_and_in_company(tokens: int) -> None:
    query, key, value = (noise(3, tokens, c, seed=seed) for seed, c in enumerate((8, 8, 64)))
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(ready._attended(query, key, value))
            for i in range(3):
                alone = (each[i : i + 1] for each in (query, key, value))
                assert torch.equal(ready._attended(*alone), made[-1][i : i + 1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, made[0]) for each in made)
    expected = torch.softmax(query @ key.transpose(1, 2) * math.log(2), -1) @ value
    torch.testing.assert_close(made[0], expected)


def in_windows(layer: WindowAttention) -> nn.Module:
    """As folding makes it, but for the precision."""
    _take_powers_of_2(layer)
    return ready.InPlaceWindowAttention(layer)


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_attention_by_powers_of_two_is_a_softmax(size: float, dtype: torch.dtype) -> None:
    """Also in windows whose scores are too large for powers, beside others where they are not."""
    layer = attention(16, 4, dtype)
    x = noise(2, 16, 8, 12, dtype=dtype) - 0.5
    x[:, :, :, :4] *= size
    expected = attention_twin(layer, x)
    made = in_windows(layer)(x.clone())
    tolerance = (1e-5 if dtype == torch.float32 else 1e-12) * size
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=tolerance)


def test_a_window_of_large_scores_does_not_change_its_neighbours() -> None:
    layer = attention(16, 4, torch.float32)
    x = noise(1, 16, 4, 12) - 0.5
    large = x.clone()
    large[:, :, :, :4] *= 1000
    made = in_windows(layer)
    assert torch.equal(made(large)[:, :, :, 4:], made(x)[:, :, :, 4:])


@pytest.mark.skipif(ready._FUSED_CONVOLUTION is None, reason="torch has no oneDNN here")
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.PReLU(init=0.3), nn.PReLU(init=0.0)])
def test_an_activation_in_the_convolution_is_the_one_behind_it(
    activation: nn.ReLU | nn.PReLU,
) -> None:
    conv = nn.Conv2d(8, 16, 3)
    x = noise(1, 8, 9, 9) - 0.5
    with torch.inference_mode():
        torch.testing.assert_close(ready.ActivatedConv(conv, activation)(x), activation(conv(x)))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.PReLU(init=0.3), nn.PReLU(init=0.0)])
def test_without_the_fused_convolution_the_activation_follows_the_convolution(
    activation: nn.ReLU | nn.PReLU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_FUSED_CONVOLUTION", None)
    conv = nn.Conv2d(8, 16, 3)
    x = noise(1, 8, 9, 9) - 0.5
    with torch.inference_mode():
        torch.testing.assert_close(ready.ActivatedConv(conv, activation)(x), activation(conv(x)))


def test_a_torch_that_lacks_the_private_operator_has_no_fused_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert ready._fused_convolution() is None
