"""The critic against the paper's numbers and slow twins, and the losses of its game."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from support.networks import noise
from torch import Tensor, nn

from slidesr.nets.critic import (
    ADVERSARIAL_LOSSES,
    Critic,
    CriticSpec,
    MapCritic,
    adversarial_loss,
    critic_loss,
    feature_matching,
    gradient_penalty,
    zero_centred_penalty,
)
from slidesr.nets.layers import WindowAttention

NORMS = ["weight", "batch", "none"]
SMALL = CriticSpec(channels=8)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]

# Input and output channels of the 3x3 convolutions; the second of each pair halves the map.
CONVS = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
NORMED = sum(wider for _, wider in CONVS[1:])  # channels with a gain: all but the first layer's


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(spec: CriticSpec, seed: int = 0) -> Critic:
    """A critic whose attention takes part."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critic = Critic(spec)
    nn.init.constant_(critic.attention.gamma, 0.7)
    return critic


def descend(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The paper's network


def test_the_paper_variant_has_its_parameters() -> None:
    convs = sum(9 * narrow * wide + wide for narrow, wide in CONVS)
    attention = 2 * (256 * 32 + 32) + (256 * 256 + 256) + 1
    head = (512 * 1024 + 1024) + (1024 + 1)
    slopes = len(CONVS) + 1
    plain = convs + attention + head + slopes
    assert count(Critic(CriticSpec(norm="none"))) == plain
    assert count(Critic(CriticSpec(norm="batch"))) == plain + 2 * NORMED
    weight_norm = count(Critic(CriticSpec()))
    assert weight_norm == plain + NORMED == 5_295_819
    assert f"{weight_norm / 1e6:.2f}" == "5.30"


@pytest.mark.parametrize("norm", NORMS)
def test_every_map_has_its_shape(norm: str) -> None:
    critic = make(CriticSpec(norm))
    with torch.inference_mode():
        maps = critic.features(noise(2, 3, 32, 64))
        assert critic.score(maps).shape == (2,)
    assert [tuple(part.shape) for part in maps] == [
        (2, 64, 16, 32),
        (2, 128, 8, 16),
        (2, 256, 4, 8),
        (2, 512, 2, 4),
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_stands_behind_every_convolution_but_the_first(norm: str) -> None:
    critic = make(CriticSpec(norm, channels=8))
    stages = (critic.down2, critic.down4, critic.down8, critic.down16)
    layers = [layer for stage in stages for layer in stage]
    behind_first = {"batch": ["Conv2d", "BatchNorm2d", "PReLU"]}.get(norm, ["Conv2d", "PReLU"])
    names = [type(layer).__name__.removeprefix("Parametrized") for layer in layers]
    assert names == ["Conv2d", "PReLU", *behind_first * 7]
    gains = [hasattr(layer, "parametrizations") for layer in layers if isinstance(layer, nn.Conv2d)]
    assert gains == [False, *[norm == "weight"] * 7]
    strides = [layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d)]
    assert strides == [1, 2] * 4
    assert not any(hasattr(part, "parametrizations") for part in critic.head)


def test_channels_scale_every_width() -> None:
    maps = make(SMALL).features(noise(1, 3, 16, 16))
    assert [part.shape[1] for part in maps] == [8, 16, 32, 64]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 30), (48, 16)])
def test_any_size_is_scored(height: int, width: int) -> None:
    assert make(SMALL)(noise(3, 3, height, width)).isfinite().sum() == 3


def test_the_score_is_a_mean_over_places_and_two_layers() -> None:
    critic = make(SMALL)
    features = noise(2, 64, 3, 5)
    first, slope, last = cast("tuple[nn.Linear, nn.PReLU, nn.Linear]", tuple(critic.head))
    for image, score in zip(features, critic.score([features]), strict=True):
        hidden = first.weight @ image.sum((1, 2)) / 15 + first.bias
        hidden = torch.where(hidden > 0, hidden, slope.weight * hidden)
        torch.testing.assert_close(score, (last.weight @ hidden + last.bias)[0])


def test_attention_is_that_of_the_generator_with_a_window_as_large_as_the_map() -> None:
    twin = WindowAttention(32, 4)
    attention = make(SMALL).attention
    twin.load_state_dict(attention.state_dict())
    x = 4 * noise(2, 32, 4, 4) - 2
    torch.testing.assert_close(attention(x), twin(x))
    assert (attention(x) - x).abs().max() > 0.1


def test_attention_by_its_definition() -> None:
    attention = make(SMALL).attention
    x = 4 * noise(1, 32, 2, 3) - 2
    query, key, value = (
        part(x)[0].flatten(1) for part in (attention.query, attention.key, attention.value)
    )
    expected = x[0].flatten(1).clone()
    for here in range(6):
        likeness = torch.stack([(query[:, here] * key[:, there]).sum() for there in range(6)])
        shares = likeness.exp() / likeness.exp().sum()
        for there in range(6):
            expected[:, here] += attention.gamma * shares[there] * value[:, there]
    torch.testing.assert_close(attention(x)[0].flatten(1), expected)


def test_attention_starts_as_nothing() -> None:
    attention = Critic(SMALL).attention
    assert torch.equal(attention(x := noise(1, 32, 4, 4)), x)


@pytest.mark.parametrize("norm", ["weight", "none"])
def test_an_image_is_scored_on_its_own(norm: str) -> None:
    critic, images = make(CriticSpec(norm, 8)).double(), noise(3, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone)


def test_batch_norm_ties_images_together() -> None:
    critic, images = make(CriticSpec("batch", 8)), noise(3, 3, 32, 32)
    assert (critic(images)[:1] - critic(images[:1])).abs() > 1e-3


@pytest.mark.parametrize("norm", ["Weight", "", None, 1])
def test_an_unknown_norm_is_refused(norm: str) -> None:
    with pytest.raises(ValueError, match="is not one of 'weight', 'batch', 'none'"):
        CriticSpec(norm=norm)


@pytest.mark.parametrize("channels", [0, -8, 12, 264, 64.0, "64", True])
def test_a_width_out_of_range_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=r"not a multiple of 8 within 8\.\.256"):
        CriticSpec(channels=channels)


# Precision and devices


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_whole_step_under_autocast(norm: str, device: str) -> None:
    critic = make(CriticSpec(norm, 8)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    real, fake = (
        noise(2, 3, 32, 32, seed=seed).to(device, memory_format=torch.channels_last)
        for seed in (1, 2)
    )
    with torch.autocast(device, torch.bfloat16):
        maps = critic.features(fake)
        scores = critic.score(maps)
        loss = critic_loss("hinge", critic(real), scores) + feature_matching(
            maps, critic.features(real)
        )
        loss = loss + 10 * gradient_penalty(critic, real, fake)
    assert maps[-1].dtype == torch.bfloat16
    assert maps[-1].is_contiguous(memory_format=torch.channels_last)
    assert scores.dtype == loss.dtype == torch.float32
    descend(loss)
    for name, parameter in critic.named_parameters():
        # gamma apart, a key's bias shifts all scores of a query alike, and softmax forgets it
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_scores_are_not_rounded_to_bf16() -> None:
    critic, images = make(SMALL), noise(8, 3, 32, 32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = critic(images)
    assert (scores != scores.bfloat16()).any()
    with torch.inference_mode():
        torch.testing.assert_close(scores, critic(images), rtol=0.02, atol=0.002)


# Gradient penalty


def sloped(slope: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear critic: its gradient is `slope` everywhere."""
    return lambda x: (x * slope).sum((1, 2, 3))


@pytest.mark.parametrize("mix", ["uniform", "normal"])
@pytest.mark.parametrize("steepness", [0.0, 0.5, 1.0, 1.5, 7.0])
def test_the_penalty_of_a_linear_critic_is_known(steepness: float, mix: str) -> None:
    slope = noise(3, 4, 5)
    critic = sloped(slope * steepness / slope.norm())
    penalty = gradient_penalty(critic, noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1), mix=mix)
    torch.testing.assert_close(penalty, torch.tensor((steepness - 1) ** 2))


def test_the_penalty_is_a_mean_over_images() -> None:
    slopes = torch.stack([torch.eye(4)[0].view(1, 2, 2) * size for size in (1.0, 3.0, 6.0)])
    penalty = gradient_penalty(sloped(slopes), torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2))
    torch.testing.assert_close(penalty, torch.tensor((0.0 + 4.0 + 25.0) / 3))


class Recorder:
    """A critic that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen = torch.zeros(0)

    def __call__(self, x: Tensor) -> Tensor:
        self.seen = x
        return (x**2).sum((1, 2, 3)) / 2  # its gradient is x


def test_uniform_places_lie_evenly_between_fake_and_real() -> None:
    critic = Recorder()
    fake, real = torch.zeros(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    penalty = gradient_penalty(critic, real, fake, rng=seeded(0))
    place = critic.seen.detach().flatten()
    assert 0 <= place.min() < 0.01 < 0.99 < place.max() <= 1
    quarters = torch.histc(place, 4, 0, 1) / 4000
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.03)
    torch.testing.assert_close(penalty, ((place - 1) ** 2).mean())


def test_normal_places_go_beyond_both_as_published() -> None:
    critic = Recorder()
    fake, real = torch.zeros(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    gradient_penalty(critic, real, fake, mix="normal", rng=seeded(0))
    assert abs(critic.seen.mean()) < 0.05
    assert abs(critic.seen.std() - 1) < 0.05


def test_an_image_has_one_place_and_0_is_the_fake() -> None:
    critic = Recorder()
    real, fake = noise(3, 3, 4, 4), noise(3, 3, 4, 4, seed=1)
    gradient_penalty(critic, real, fake, rng=seeded(5))
    place = torch.rand(3, 1, 1, 1, generator=seeded(5))
    torch.testing.assert_close(critic.seen, place * real + (1 - place) * fake)


def test_the_same_generator_gives_the_same_penalty() -> None:
    critic, real, fake = make(SMALL), noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)
    first, same, other = (
        gradient_penalty(critic, real, fake, rng=seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_unknown_mix_is_refused() -> None:
    with pytest.raises(ValueError, match="mix 'even' is not one of 'uniform', 'normal'"):
        gradient_penalty(sloped(noise(1)), noise(1, 1, 1, 1), noise(1, 1, 1, 1), mix="even")


def test_the_penalty_stays_in_fp32_under_autocast() -> None:
    critic = make(SMALL)
    real, fake = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)
    precise = gradient_penalty(critic, real, fake, rng=seeded(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert critic.features(real)[0].dtype == torch.bfloat16
        inside = gradient_penalty(critic, real, fake, rng=seeded(0))
        rounded = gradient_penalty(critic, real, fake.bfloat16(), rng=seeded(0))
    assert torch.equal(inside, precise)
    torch.testing.assert_close(rounded, precise, rtol=0.02, atol=0)


def test_the_generator_gets_nothing_from_the_penalty() -> None:
    critic, fake = make(SMALL), noise(2, 3, 16, 16).requires_grad_()
    descend(gradient_penalty(critic, noise(2, 3, 16, 16, seed=1), fake))
    assert fake.grad is None
    assert any(parameter.grad is not None for parameter in critic.parameters())


def test_a_flat_critic_has_a_penalty_of_1_and_no_broken_gradient() -> None:
    critic = make(SMALL)
    for parameter in critic.head.parameters():
        nn.init.zeros_(parameter)
    penalty = gradient_penalty(critic, noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1))
    assert penalty == 1
    descend(penalty)
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


def test_the_penalty_of_a_smooth_critic_by_gradcheck() -> None:
    real, fake = (noise(2, 1, 3, 3, seed=seed, dtype=torch.float64) for seed in (1, 2))

    def penalty(inner: Tensor, outer: Tensor) -> Tensor:
        def critic(x: Tensor) -> Tensor:
            return nn.functional.softplus(x.flatten(1) @ inner).square() @ outer

        return gradient_penalty(critic, real, fake, rng=seeded(3))

    weights = [noise(9, 4, dtype=torch.float64) - 0.5, noise(4, seed=1, dtype=torch.float64)]
    assert torch.autograd.gradcheck(penalty, [weight.requires_grad_() for weight in weights])


@pytest.mark.parametrize("norm", NORMS)
def test_the_penalty_of_the_critic_by_finite_differences(norm: str) -> None:
    critic, rng = make(CriticSpec(norm, 8)).double(), seeded(4)
    real, fake = (noise(2, 3, 32, 32, seed=seed, dtype=torch.float64) for seed in (1, 2))
    first = {name: value.detach() for name, value in critic.named_parameters()}
    way = {
        name: torch.randn(value.shape, generator=rng, dtype=value.dtype) * value.abs().mean()
        for name, value in first.items()
    }

    def penalty(step: Tensor) -> Tensor:
        moved = {name: value + step * way[name] for name, value in first.items()}
        return gradient_penalty(
            lambda x: cast(Tensor, 1000 * torch.func.functional_call(critic, moved, x)),
            real,
            fake,
            rng=seeded(3),
        )

    here = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(penalty(here), here)
    measured = (penalty(here + 1e-6) - penalty(here - 1e-6)) / 2e-6
    assert abs(slope) > 0.01
    torch.testing.assert_close(slope, measured.detach(), rtol=1e-4, atol=0)


# The other losses


REAL, FAKE = torch.tensor([2.0, 4.0]), torch.tensor([1.0, -3.0])
E = math.e


@pytest.mark.parametrize(
    ("kind", "of_critic", "of_generator"),
    [
        ("wasserstein", -1 - 3, 1),
        ("hinge", 0 + (2 + 0) / 2, 1),
        (
            "relativistic",
            (math.log(1 + E ** (1 - 2)) + math.log(1 + E ** (-3 - 4))) / 2,
            (math.log(1 + E ** (2 - 1)) + math.log(1 + E ** (4 + 3))) / 2,
        ),
    ],
)
def test_adversarial_losses_by_hand(kind: str, of_critic: float, of_generator: float) -> None:
    assert critic_loss(kind, REAL, FAKE).item() == pytest.approx(of_critic)
    assert adversarial_loss(kind, REAL, FAKE).item() == pytest.approx(of_generator)


@pytest.mark.parametrize("kind", ADVERSARIAL_LOSSES)
def test_critic_and_generator_pull_scores_apart_and_up(kind: str) -> None:
    real, fake = (torch.tensor([0.2, 0.4]).mul(sign).requires_grad_() for sign in (1, -1))
    of_real, of_fake = torch.autograd.grad(critic_loss(kind, real, fake), [real, fake])
    (up,) = torch.autograd.grad(adversarial_loss(kind, real.detach(), fake), fake)
    assert (of_real < 0).all()
    assert (of_fake > 0).all()
    assert (up < 0).all()


def test_an_unknown_adversarial_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="'least squares' is not one of"):
        critic_loss("least squares", REAL, FAKE)


@pytest.mark.parametrize("steepness", [0.0, 0.5, 7.0])
def test_the_zero_centred_penalty_of_a_linear_critic_is_known(steepness: float) -> None:
    slope = noise(3, 4, 5)
    critic, images = sloped(slope * steepness / slope.norm()), noise(2, 3, 4, 5).requires_grad_()
    penalty = zero_centred_penalty(critic, images)
    torch.testing.assert_close(penalty, torch.tensor(steepness**2))


def test_the_zero_centred_penalty_is_taken_at_the_images_and_for_the_critic_alone() -> None:
    critic, images = Recorder(), noise(2, 3, 4, 5).requires_grad_()
    torch.testing.assert_close(
        zero_centred_penalty(critic, images), images.square().sum((1, 2, 3)).mean()
    )
    assert torch.equal(critic.seen, images)
    network = make(SMALL)
    descend(zero_centred_penalty(network, images))
    assert images.grad is None
    assert any(parameter.grad is not None for parameter in network.parameters())


# A critic of feature maps


def make_map_critic(norm: str = "weight") -> MapCritic:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MapCritic((3, 5), CriticSpec(norm, channels=8))


def maps_of_images(*sides: int, seed: int = 0) -> list[Tensor]:
    return [
        noise(2, depth, side, side, seed=seed) for depth, side in zip((3, 5), sides, strict=True)
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_a_score_is_the_mean_over_maps_of_the_means_over_places(norm: str) -> None:
    critic = make_map_critic(norm).eval()
    maps = maps_of_images(8, 4)
    features = critic.features(*maps)
    assert [tuple(part.shape) for part in features] == [(2, 8, 8, 8), (2, 8, 4, 4)]
    by_map = [
        (head.weight.reshape(1, 8, 1, 1) * part).sum(1).mean((1, 2)) + head.bias
        for head, part in zip(cast("Any", critic.heads), features, strict=True)
    ]
    torch.testing.assert_close(critic(*maps), (by_map[0] + by_map[1]) / 2)


@pytest.mark.parametrize("norm", ["weight", "none"])
def test_a_critic_of_maps_scores_each_image_alone(norm: str) -> None:
    critic, maps = make_map_critic(norm), maps_of_images(8, 4)
    alone = torch.cat([critic(*(part[index : index + 1] for part in maps)) for index in (0, 1)])
    torch.testing.assert_close(critic(*maps), alone)


def test_a_critic_of_maps_wants_as_many_as_it_was_made_for() -> None:
    with pytest.raises(ValueError, match="shorter"):
        make_map_critic()(noise(2, 3, 8, 8))


def test_penalties_are_of_the_slope_over_all_maps() -> None:
    """3 and 4 along one map each make 5; both maps of an image lie equally far between."""
    real, fake = maps_of_images(4, 2), maps_of_images(4, 2, seed=1)
    seen: list[list[Tensor]] = []

    def critic(*maps: Tensor) -> Tensor:
        seen.append([part.detach() for part in maps])
        return 3 * maps[0][:, 0, 0, 0] + 4 * maps[1][:, 2, 1, 1]

    penalty = gradient_penalty(critic, real, fake, rng=seeded(0))
    torch.testing.assert_close(penalty, torch.tensor((5.0 - 1) ** 2))
    torch.testing.assert_close(zero_centred_penalty(critic, real), torch.tensor(25.0))
    weights = [
        (part - generated) / (original - generated)
        for part, generated, original in zip(seen[0], fake, real, strict=True)
    ]
    for index in (0, 1):
        weight = weights[0][index].mean()
        for part in weights:
            torch.testing.assert_close(
                part[index], weight.expand_as(part[index]), atol=1e-3, rtol=0
            )


def test_feature_matching_by_hand() -> None:
    made = [torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0]])]
    high = [torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0]])]
    assert feature_matching(made, high) == (1 + 2) / 2 + 3
    assert feature_matching(made, made) == 0
    coarse = [part.bfloat16() for part in high]
    assert feature_matching(coarse, coarse).dtype == torch.float32


def test_feature_matching_pulls_the_made_image_alone() -> None:
    made, high = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1).requires_grad_()
    descend(feature_matching([made], [high]))
    assert made.grad is not None
    assert high.grad is None


def test_feature_matching_wants_maps_of_one_critic() -> None:
    with pytest.raises(ValueError, match="shorter"):
        feature_matching([noise(1), noise(1)], [noise(1)])


def test_a_critic_learns_to_tell_bright_images_from_dark_ones() -> None:
    critic, rng = make(SMALL), seeded(4)
    optimizer = torch.optim.Adam(critic.parameters(), 0.003)
    penalties = []
    for _ in range(60):
        real = 0.5 + torch.rand(4, 3, 16, 16, generator=rng) / 2
        fake = real - 0.5
        penalty = gradient_penalty(critic, real, fake, rng=rng)
        penalties.append(penalty.item())
        optimizer.zero_grad()
        descend(critic_loss("wasserstein", critic(real), critic(fake)) + 10 * penalty)
        optimizer.step()
    assert critic_loss("wasserstein", critic(real), critic(fake)) < -0.5
    assert penalties[-1] < 0.8 < penalties[0]
