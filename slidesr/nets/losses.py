"""What a made image is held to beside the true one; the losses of the critic stand in `critic`.

Images are f32 or bf16 [n, 3, h, w] in 0..1; every loss is one fp32 number, autocast or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    # https://doi.org/10.1109/ICIP.1994.413553, with 1e-3 for its epsilon
    "charbonnier": lambda made, high: torch.sqrt((made - high) ** 2 + 1e-6).mean(),
}
_COLOUR_BOX_PX = 8


def pixel_loss(name: str, made: Tensor, high: Tensor) -> Tensor:
    """A fidelity loss by its name: "l1", "mse" or "charbonnier"."""
    if name not in _PIXEL_LOSSES:
        raise ValueError(f"pixel loss {name!r} is not one of {', '.join(_PIXEL_LOSSES)}")
    return _PIXEL_LOSSES[name](made.float(), high.float())


def total_variation(made: Tensor) -> Tensor:
    """The squared total variation, as in the code published with WA-SRGAN.

    Twice the mean squared step between neighbours, that down plus that across.
    """
    image = made.float()
    down = F.mse_loss(image[:, :, 1:], image[:, :, :-1])
    across = F.mse_loss(image[:, :, :, 1:], image[:, :, :, :-1])
    return 2 * (down + across)


def frequency_loss(made: Tensor, high: Tensor) -> Tensor:
    """The L1 distance of the details in two octaves of an undecimated Haar transform.

    The mean over the three directions, summed over octaves, the transform keeping energy (WGSR,
    arXiv 2402.19215, where wavelets tell detail from artefact better than Fourier's transform).
    Undecimated, since a grid of 2 px would always fall in step with the network's sub-pixels.
    The transform is linear, so that one of the difference is enough. Sides of at least 4 px.
    """
    rest, losses = made.float() - high.float(), []
    for gap_px in (1, 2):
        smooth_x, step_x = _sum_and_step(rest, 3, gap_px)
        smooth, step_y = _sum_and_step(smooth_x, 2, gap_px)
        losses += [part.abs().mean() / 3 for part in (step_y, *_sum_and_step(step_x, 2, gap_px))]
        rest = smooth
    return torch.stack(losses).sum()


def colour_consistency(made: Tensor, low: Tensor, scale: int) -> Tensor:
    """The L1 distance of the mean colours in boxes of 8 low-resolution pixels, or the patch if that
    is smaller, so that no shift of colour is learnt.

    Smaller boxes would ask for what true images do not have: they differ from their bicubic
    reductions by 2 grey levels in boxes of 1 px at x4, by 0.1 in boxes of 8 px.
    """
    box = min(_COLOUR_BOX_PX, *low.shape[2:])
    return F.l1_loss(F.avg_pool2d(made.float(), box * scale), F.avg_pool2d(low.float(), box))


def grid_loss(made: Tensor, scale: int) -> Tensor:
    """How far the means of the scale x scale sub-pixels are from each other, in boxes as above.

    A pixel shuffle can write a pattern that repeats with every low-resolution pixel (Odena et al.
    2016, https://distill.pub/2016/deconv-checkerboard), which critics and perceptual networks take
    for texture. In true images all sub-pixels have one mean.
    """
    phases = F.pixel_unshuffle(made.float(), scale)
    means = F.avg_pool2d(phases, min(_COLOUR_BOX_PX, *phases.shape[2:]))
    means = torch.unflatten(means, 1, (-1, scale**2))  # [n, 3, scale * scale, h / box, w / box]
    return F.l1_loss(means, means.mean(2, keepdim=True).expand_as(means))


class PerceptualLoss(nn.Module):
    """The distance of two images' features in a frozen network, a weighted sum over its maps.

    `network` takes images and gives one map for each of `weights`; if it is a module it is frozen
    and moves with this one. `distance` is "mse" (Johnson et al. 2016, arXiv 1603.08155, eq. 2) or
    "l1". `unit_length` first scales the features of each place to length 1 (LPIPS, arXiv
    1801.03924, eq. 1), so that strong features do not outvote the rest.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Sequence[Tensor]],
        weights: Sequence[float],
        *,
        distance: str = "mse",
        unit_length: bool = False,
    ) -> None:
        super().__init__()
        if distance not in ("mse", "l1"):
            raise ValueError(f"distance {distance!r} is not one of 'mse', 'l1'")
        self.network = network
        self.weights, self.distance, self.unit_length = tuple(weights), distance, unit_length
        self.train(False).requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation mode, whatever a parent is put into."""
        return super().train(False)

    def forward(self, made: Tensor, high: Tensor) -> Tensor:
        maps = self._maps(made)
        if len(maps) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights for a network of {len(maps)} maps")
        with torch.no_grad():
            targets = self._maps(high)
        losses = [
            weight * _PIXEL_LOSSES[self.distance](ours, theirs)
            for weight, ours, theirs in zip(self.weights, maps, targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def _maps(self, image: Tensor) -> list[Tensor]:
        maps = [part.float() for part in self.network(image)]
        return [_unit_length(part) for part in maps] if self.unit_length else maps


def _sum_and_step(x: Tensor, dim: int, gap_px: int) -> tuple[Tensor, Tensor]:
    """Each pixel plus, and minus, the one `gap_px` further along `dim`; both over sqrt(2)."""
    length = x.shape[dim] - gap_px
    near, far = x.narrow(dim, 0, length), x.narrow(dim, gap_px, length)
    return (near + far) * 0.5**0.5, (near - far) * 0.5**0.5


def _unit_length(features: Tensor) -> Tensor:
    """[n, c, h, w], each place's vector scaled to length 1.

    The small number keeps the slope bounded where every feature is zero, as on empty glass.
    """
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-6)
