"""The generator's losses against a reference; the adversarial losses are in `nets.critic`.

Images are f32 or bf16 [n, 3, h, w] in 0..1; every loss is an fp32 scalar, with or without autocast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    # https://doi.org/10.1109/ICIP.1994.413553, epsilon 1e-3
    "charbonnier": lambda output, high: torch.sqrt((output - high) ** 2 + 1e-6).mean(),
}
_COLOUR_BOX_PX = 8
_CHECKER_BOX_PX = 8
_LEAST_ENERGY = 1e-6  # of steps in a blank image: a quarter of a grey level, squared


def pixel_loss(name: str, output: Tensor, high: Tensor) -> Tensor:
    """The pixel loss of the given name: "l1", "mse" or "charbonnier"."""
    if name not in _PIXEL_LOSSES:
        raise ValueError(f"pixel loss {name!r} is not one of {', '.join(_PIXEL_LOSSES)}")
    return _PIXEL_LOSSES[name](output.float(), high.float())


def total_variation(output: Tensor) -> Tensor:
    """The squared total variation, as in the code published with WA-SRGAN.

    Twice the sum of the mean squared vertical and horizontal differences of neighbours.
    """
    image = output.float()
    down = F.mse_loss(image[:, :, 1:], image[:, :, :-1])
    across = F.mse_loss(image[:, :, :, 1:], image[:, :, :, :-1])
    return 2 * (down + across)


def frequency_loss(output: Tensor, high: Tensor) -> Tensor:
    """The L1 distance of the detail coefficients in two levels of an undecimated Haar transform.

    Averaged over the three orientations and summed over levels; the transform is orthonormal (WGSR,
    arXiv 2402.19215: wavelets separate detail from artefacts better than the Fourier transform). It
    is undecimated because a 2 px grid would always align with the network's sub-pixels, and linear,
    so transforming the difference is enough. Images are at least 4 px a side.
    """
    rest, losses = output.float() - high.float(), []
    for gap_px in (1, 2):
        smooth_x, step_x = _sum_and_step(rest, 3, gap_px)
        smooth, step_y = _sum_and_step(smooth_x, 2, gap_px)
        losses += [part.abs().mean() / 3 for part in (step_y, *_sum_and_step(step_x, 2, gap_px))]
        rest = smooth
    return torch.stack(losses).sum()


def colour_consistency(output: Tensor, low: Tensor, scale: int) -> Tensor:
    """The L1 distance of mean colours in boxes of 8 low-resolution pixels, at most the patch.

    It prevents colour shifts. Smaller boxes would penalise even the originals: they differ from
    their bicubic reductions by 2 grey levels in boxes of 1 px at x4, by 0.1 in boxes of 8 px.
    """
    box = min(_COLOUR_BOX_PX, *low.shape[2:])
    return F.l1_loss(F.avg_pool2d(output.float(), box * scale), F.avg_pool2d(low.float(), box))


def grid_loss(output: Tensor, scale: int) -> Tensor:
    """The spread of the mean values of the scale x scale sub-pixels, and checkerboards of 2 px.

    A pixel shuffle can produce a pattern with the period of a low-resolution pixel (Odena et al.
    2016, https://distill.pub/2016/deconv-checkerboard), which critics and perceptual networks
    mistake for texture. In real images all sub-pixels have the same mean, in boxes as above. The
    sign of a checkerboard may follow what it lies on, so its boxes are of 8 px of the output.
    """
    image = output.float()
    phases = F.pixel_unshuffle(image, scale)
    means = F.avg_pool2d(phases, min(_COLOUR_BOX_PX, *phases.shape[2:]))
    means = torch.unflatten(means, 1, (-1, scale**2))  # [n, 3, scale * scale, h / box, w / box]
    spread = F.l1_loss(means, means.mean(2, keepdim=True).expand_as(means))
    quarters = torch.unflatten(F.pixel_unshuffle(image, 2), 1, (-1, 4))
    checkers = (quarters * quarters.new_tensor([1, -1, -1, 1])[:, None, None]).mean(2)
    box = min(_CHECKER_BOX_PX // 2, *checkers.shape[2:])
    return spread + F.avg_pool2d(checkers, box).abs().mean()


def border_loss(output: Tensor, high: Tensor, window_px: int) -> Tensor:
    """The mean step of the error across the borders of attention windows; 0 for a single window.

    Attention sees one window, and so may shift it against its neighbours: too little for an L1 loss
    to notice, but along a whole border. On each side of a border the error is averaged over a strip
    as long as a window and an eighth as wide. `window_px` is in pixels of the output.
    """
    error, strip_px = output.float() - high.float(), max(1, window_px // 8)
    steps = []
    for image in (error, error.mT):  # borders between columns, then between rows
        lines = torch.unflatten(F.avg_pool2d(image, (window_px, 1)), 3, (-1, window_px))
        left, right = lines[..., :-1, -strip_px:].mean(-1), lines[..., 1:, :strip_px].mean(-1)
        steps.append((right - left).flatten())
    step = torch.cat(steps)
    return step.abs().mean() if step.numel() else error.new_zeros(())


def border_detail_loss(output: Tensor, high: Tensor, window_px: int) -> Tensor:
    """How much stronger or weaker detail is across the borders of attention windows than elsewhere.

    Two windows that see different parts of the image make details that do not fit together, and a
    network that judges the whole does not notice one line of pixels. For output and original, this
    takes the logarithm of the ratio of the energy of pixel-to-pixel steps across borders to that of
    all steps, and squares the difference. The image must be larger than `window_px`, in pixels of
    the output.
    """
    ours, theirs = (_log_border_detail(image.float(), window_px) for image in (output, high))
    return (ours - theirs) ** 2


def _log_border_detail(image: Tensor, window_px: int) -> Tensor:
    steps = [turned.diff(dim=-1).square().mean(dim=(0, 1, 2)) for turned in (image, image.mT)]
    on_borders = torch.cat([energy[window_px - 1 :: window_px] for energy in steps]).mean()
    return torch.log((on_borders + _LEAST_ENERGY) / (torch.cat(steps).mean() + _LEAST_ENERGY))


def _sum_and_step(x: Tensor, dim: int, gap_px: int) -> tuple[Tensor, Tensor]:
    """Sum and difference of pixels `gap_px` apart along `dim`, both divided by sqrt(2)."""
    length = x.shape[dim] - gap_px
    near, far = x.narrow(dim, 0, length), x.narrow(dim, gap_px, length)
    return (near + far) * 0.5**0.5, (near - far) * 0.5**0.5
