"""Contrastive training of the perceptual network.

SimCLR (Chen et al. 2020, arXiv 2002.05709) with a degraded copy of each place as a hard negative,
so that the features represent sharpness and texture, not only the tissue type.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slidesr.errors import SlidesrError
from slidesr.model.device import mixed_precision
from slidesr.nets.encoder import Encoder, EncoderSpec
from slidesr.train.checkpoint import TrainingCheckpoint
from slidesr.train.encoder.scores import EncoderScores, score_encoder
from slidesr.train.encoder.views import ViewSampler, ViewsRecipe
from slidesr.train.recipe import OptimizerRecipe, learning_rate

_PROJECTED = 128
_BALANCED_ON = 64  # patches


@dataclass(frozen=True)
class EncoderRecipe:
    """One training run. Progress is counted in patches: places of which two views were drawn.

    AdamW with a linear warm-up and a cosine to zero, both counted in patches.
    """

    name: str
    encoder: EncoderSpec
    patches: int
    batch: int = 16
    temperature: float = 0.2
    learning_rate: float = 1e-3
    warmup: int = 640
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.98
    seed: int = 0
    validate_every: int = 8_000
    views: ViewsRecipe = field(default_factory=ViewsRecipe)

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name {self.name!r} is not a plain file name")
        if self.batch < 2 or self.patches < self.batch or self.validate_every < self.batch:
            raise ValueError("patches and validate_every must be at least batch, batch at least 2")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} is not positive")
        _ = self.optimizer  # raises ValueError if invalid
        if self.views.crop_px < self.encoder.least_px:
            raise ValueError(f"crop_px {self.views.crop_px} leaves no pixel on the last map")

    @property
    def optimizer(self) -> OptimizerRecipe:
        return OptimizerRecipe(
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            ema=self.ema,
        )


@dataclass(frozen=True)
class EncoderProgress:
    """The state of a run; `right` is the share of views whose partner ranks first."""

    patches: int
    seconds: float
    loss: float
    right: float
    scores: EncoderScores


@dataclass(frozen=True)
class TrainedEncoder:
    """The result of a run: the encoder, and the patches and seconds spent."""

    encoder: Encoder
    patches: int
    seconds: float


def train_encoder(
    recipe: EncoderRecipe,
    data: Path,
    valid: Path,
    out: Path,
    report: Callable[[EncoderProgress], None],
) -> TrainedEncoder:
    """Trains an encoder and returns its moving average; resumes from `out`/checkpoint.pt.

    The state is saved atomically at every validation, and what a step draws is a function of the
    seed and the patches seen: on a CPU a resumed run gives the weights of an uninterrupted one.
    """
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = ViewSampler(data, recipe.views)
    network = _Contrastive(recipe.encoder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(
        network.encoder,
        multi_avg_fn=get_ema_multi_avg_fn(recipe.ema),  # type: ignore[no-untyped-call]
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    parts = {"network": network, "average": average, "optimizer": optimizer}
    state = TrainingCheckpoint(out, asdict(recipe), parts)
    patches, seconds = state.load()

    started = time.monotonic() - seconds
    losses, rights = list[float](), list[float]()
    while patches < recipe.patches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe.optimizer, patches, recipe.patches)
        views = sampler.draw(recipe.batch, np.random.default_rng((recipe.seed, patches)))
        with mixed_precision(device):
            projected = network(torch.cat([views.first, views.second, views.degraded]).to(device))
        loss, right = info_nce(*projected.float().chunk(3), temperature=recipe.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        average.update_parameters(network.encoder)

        before, patches = patches, patches + recipe.batch
        losses.append(loss.item())
        rights.append(right.item())
        if not math.isfinite(losses[-1]):
            raise SlidesrError(f"{out}: the loss is not finite after {patches} patches")
        due = before // recipe.validate_every != patches // recipe.validate_every
        if due or patches >= recipe.patches:
            seconds = time.monotonic() - started
            state.save(patches, seconds)
            scores = score_encoder(cast(Encoder, average.module), valid, recipe.views)
            mean_loss, mean_right = (sum(values) / len(values) for values in (losses, rights))
            report(EncoderProgress(patches, seconds, mean_loss, mean_right, scores))
            losses.clear()
            rights.clear()
    encoder = cast(Encoder, average.module.eval())
    balance(encoder, sampler.draw(_BALANCED_ON, np.random.default_rng(recipe.seed)).first)
    return TrainedEncoder(encoder.half().float(), patches, time.monotonic() - started)  # as stored


def info_nce(
    first: Tensor, second: Tensor, degraded: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """The loss (arXiv 2002.05709, eq. 1) and the share of views that are nearest to their partner.

    f32[n, d] each, row i of the same place: negatives of a view are all views of other places and
    all degraded copies.
    """
    views = torch.cat([first, second])
    keys = F.normalize(torch.cat([views, degraded]), dim=1)
    logits = F.normalize(views, dim=1) @ keys.T / temperature  # [2n, 3n]
    itself = torch.eye(len(views), len(keys), dtype=torch.bool, device=views.device)
    logits = logits.masked_fill(itself, -torch.inf)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    right = (logits.argmax(1) == partner).float().mean()
    return F.cross_entropy(logits, partner), right


@torch.no_grad()
def balance(encoder: Encoder, views: Tensor) -> None:
    """Rescales each stage so that its features have mean square 1; distances do not change.

    The head's batch norm lets the scale of features drift by orders of magnitude. A factor commutes
    with ReLU and pooling, and the next stage's weights compensate for it.
    """
    squares = [features.square().mean() for features in encoder(views.to(encoder.mean.device))]
    before: Tensor = torch.ones(())
    for stage, square in zip(encoder.stages, squares, strict=True):
        first, second = (layer for layer in stage.children() if isinstance(layer, nn.Conv2d))
        first.weight.div_(before)
        before = square.rsqrt()
        for parameter in second.parameters():
            parameter.mul_(before)


class _Contrastive(nn.Module):
    """The encoder with a projection head that is discarded after training.

    The head's batch norm centres the features, which initially lie in a narrow cone.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.encoder = Encoder(spec)
        width = spec.channels[-1]
        self.head = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, _PROJECTED),
        )

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.head(self.encoder.embedding(x))
        return projected
