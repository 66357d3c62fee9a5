"""The critic of WA-SRGAN (Shahidi, IEEE Access 2021), one of feature maps, adversarial losses.

Scores are unbounded and higher for images that look real. The losses are "wasserstein", as in
WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028), "hinge" (Lim and Ye 2017, arXiv 1705.02894) and
"relativistic", which compares each generated image with its own original (Jolicoeur-Martineau 2018,
arXiv 1807.00734, RpGAN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from slidesr.nets.layers import SelfAttention

_DRAW = {"uniform": torch.rand, "normal": torch.randn}
ADVERSARIAL_LOSSES = ("wasserstein", "hinge", "relativistic")


@dataclass(frozen=True)
class CriticSpec:
    """The critic's hyperparameters; the defaults are WA-SRGAN's.

    `norm` is "weight", "batch" or "none". "batch" is for comparison only: it couples the images
    of a batch, whereas the gradient penalty is defined per image (section 4 of WGAN-GP).
    `channels` is the width of the first layer; the others are multiples of it, and the cost grows
    with its square.
    """

    norm: str = "weight"
    channels: int = 64

    def __post_init__(self) -> None:
        if self.norm not in ("weight", "batch", "none"):
            raise ValueError(f"norm {self.norm!r} is not one of 'weight', 'batch', 'none'")
        if type(self.channels) is not int or self.channels not in range(8, 257, 8):
            raise ValueError(f"channels {self.channels!r} is not a multiple of 8 within 8..256")


class Critic(nn.Module):
    """f32[n, 3, h, w] in 0..1 -> f32[n] scores; any h and w."""

    def __init__(self, spec: CriticSpec) -> None:
        super().__init__()
        self.spec = spec
        c, norm = spec.channels, spec.norm
        self.down2 = nn.Sequential(*_conv(3, c, "none"), *_conv(c, c, norm, stride=2))
        self.down4 = nn.Sequential(*_stage(c, 2 * c, norm))
        self.down8 = nn.Sequential(*_stage(2 * c, 4 * c, norm))
        self.attention = _GlobalAttention(4 * c)
        self.down16 = nn.Sequential(*_stage(4 * c, 8 * c, norm))
        self.head = nn.Sequential(nn.Linear(8 * c, 16 * c), nn.PReLU(), nn.Linear(16 * c, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.features(x))

    def features(self, x: Tensor) -> list[Tensor]:
        """The four feature maps, fine to coarse: inputs of `score` and `feature_matching`."""
        half = self.down2(x)  # [n, 64, h/2, w/2]
        quarter = self.down4(half)  # [n, 128, h/4, w/4]
        eighth = self.attention(self.down8(quarter))  # [n, 256, h/8, w/8]
        sixteenth = self.down16(eighth)  # [n, 512, h/16, w/16]
        return [half, quarter, eighth, sixteenth]

    def score(self, features: Sequence[Tensor]) -> Tensor:
        """Scores f32[n], in full precision even under autocast, as their differences are small."""
        last = features[-1]
        with torch.autocast(last.device.type, enabled=False):
            pooled = last.mean((2, 3), dtype=_full_precision(last))  # [n, 512]
            scores: Tensor = self.head(pooled)  # [n, 1]; the paper's 1x1 convolutions
        return scores.squeeze(1)


class MapCritic(nn.Module):
    """Maps f32[n, c, h, w] of a frozen network, one for each of `depths` c -> f32[n] scores.

    A projected critic (Sauer et al. 2021, arXiv 2111.01007): each map has a small network of its
    own, of `channels`, which scores every place. The score of an image is the mean over places and
    maps. Without its random projections, as the maps here are narrow.
    """

    def __init__(self, depths: Sequence[int], spec: CriticSpec) -> None:
        super().__init__()
        c, norm = spec.channels, spec.norm
        self.bodies = nn.ModuleList(
            nn.Sequential(*_conv(depth, c, norm, size=1), *_conv(c, c, norm)) for depth in depths
        )
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for _ in depths)

    def forward(self, *maps: Tensor) -> Tensor:
        return self.score(self.features(*maps))

    def features(self, *maps: Tensor) -> list[Tensor]:
        """A map for each of `maps`: inputs of `score` and `feature_matching`."""
        return [body(part) for body, part in zip(self.bodies, maps, strict=True)]

    def score(self, features: Sequence[Tensor]) -> Tensor:
        """Scores f32[n], in full precision even under autocast, as their differences are small."""
        with torch.autocast(features[0].device.type, enabled=False):
            scores = [
                head(part.to(_full_precision(part))).mean((1, 2, 3))
                for head, part in zip(self.heads, features, strict=True)
            ]
        return torch.stack(scores).mean(0)


class _GlobalAttention(SelfAttention):
    """SAGAN's self-attention (Zhang et al. 2019, arXiv 1805.08318) over the whole map.

    The gradient penalty needs second derivatives, which the kernels of the generator's
    `WindowAttention` lack. Memory: (h * w)^2 values per image, 4 MB in fp32 at 32 x 32.
    """

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # [n, h * w, c/8] twice, [n, h * w, c]
        shares = (query @ key.transpose(1, 2)).softmax(dim=-1)  # [n, h * w, h * w]
        attended: Tensor = (shares @ value).transpose(1, 2).reshape(x.shape)  # [n, c, h, w]
        return x + self.gamma * attended


def critic_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss without the penalty, from scores f32[n] of real and generated images."""
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    raise ValueError(f"loss {kind!r} is not one of {ADVERSARIAL_LOSSES}")


def adversarial_loss(kind: str, real: Tensor | None, fake: Tensor) -> Tensor:
    """The generator's loss, from scores f32[n]; only "relativistic" needs those of `real`."""
    if kind != "relativistic":
        return -fake.mean()
    if real is None:
        raise ValueError("the relativistic loss needs the scores of real images")
    return F.softplus(real - fake).mean()


def gradient_penalty(
    critic: Callable[..., Tensor],
    real: Tensor | Sequence[Tensor],
    fake: Tensor | Sequence[Tensor],
    *,
    mix: str = "uniform",
    rng: torch.Generator | None = None,
) -> Tensor:
    """Penalises gradient norms other than 1 between real and fake images (WGAN-GP, eq. 3).

    Images, or the maps of images for a critic that takes several.
    Two-sided, in full precision even under autocast, and differentiable only with respect to the
    critic's parameters. `mix` is the distribution of the interpolation weight between fake (0) and
    real (1): "uniform" as in WGAN-GP, or "normal" as in the code published with WA-SRGAN, which
    also extrapolates. `rng` is a CPU generator, so that all devices draw the same weights.
    """
    if mix not in _DRAW:
        raise ValueError(f"mix {mix!r} is not one of 'uniform', 'normal'")
    reals, fakes = _maps(real), _maps(fake)
    with torch.autocast(reals[0].device.type, enabled=False):
        full = _full_precision(reals[0])
        weight = _DRAW[mix](len(reals[0]), 1, 1, 1, generator=rng).to(reals[0].device, full)
        between = [
            torch.lerp(generated.detach().to(full), original.detach().to(full), weight)
            for generated, original in zip(fakes, reals, strict=True)
        ]
        norms = _gradient_norms(critic, between)
        return F.mse_loss(norms, torch.ones_like(norms))


def zero_centred_penalty(
    critic: Callable[..., Tensor], images: Tensor | Sequence[Tensor]
) -> Tensor:
    """The mean squared gradient norm at these images (Mescheder et al. 2018, arXiv 1801.04406).

    R1 if they are real, R2 if generated (eqs. 9 and 10, without the factor gamma / 2). In full
    precision, and differentiable only with respect to the critic's parameters.
    """
    norms = _gradient_norms(critic, [part.detach() for part in _maps(images)])
    return norms.square().mean()


def feature_matching(output: Sequence[Tensor], high: Sequence[Tensor]) -> Tensor:
    """The L1 distance of the critic's feature maps, summed over maps (pix2pixHD, arXiv 1711.11585).

    No gradient flows into the maps of `high`.
    """
    distances = [
        F.l1_loss(ours.float(), theirs.detach().float())
        for ours, theirs in zip(output, high, strict=True)
    ]
    return torch.stack(distances).sum()


def _maps(images: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [images] if isinstance(images, Tensor) else images


def _gradient_norms(critic: Callable[..., Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Norms f32[n] of the gradients of each image's score, differentiable once more."""
    with torch.autocast(maps[0].device.type, enabled=False):
        places = [part.to(_full_precision(part)).requires_grad_() for part in maps]
        gradients = torch.autograd.grad(critic(*places).sum(), places, create_graph=True)
        flat = torch.cat([part.flatten(1) for part in gradients], dim=1)
        norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return norms


def _stage(channels: int, wider: int, norm: str) -> list[nn.Module]:
    """A convolution to more channels, then one of stride 2."""
    return [*_conv(channels, wider, norm), *_conv(wider, wider, norm, stride=2)]


def _conv(
    channels: int, wider: int, norm: str, *, stride: int = 1, size: int = 3
) -> list[nn.Module]:
    conv = nn.Conv2d(channels, wider, size, stride=stride, padding=size // 2)
    if norm == "batch":
        return [conv, nn.BatchNorm2d(wider), nn.PReLU()]
    return [weight_norm(conv) if norm == "weight" else conv, nn.PReLU()]


def _full_precision(x: Tensor) -> torch.dtype:
    """fp32, or fp64 if `x` is."""
    return torch.promote_types(x.dtype, torch.float32)
