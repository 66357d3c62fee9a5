"""Contrastive training of the perceptual network, without labels.

SimCLR (Chen et al. 2020, arXiv 2002.05709) with a degraded copy of each place as a hard negative,
so that the features are sensitive to sharpness and texture, not only to the type of tissue.
"""

from __future__ import annotations

import math
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
from slidesr.model.device import mixed_precision, training_format
from slidesr.nets.encoder import Encoder, EncoderSpec
from slidesr.train.checkpoint import TrainingCheckpoint
from slidesr.train.distributed import World
from slidesr.train.encoder.scores import EncoderScores, score_encoder
from slidesr.train.encoder.views import Views, ViewSampler, ViewsRecipe
from slidesr.train.pace import Control, Pace
from slidesr.train.recipe import OptimizerRecipe, learning_rate

_PROJECTED = 128
_BALANCING_PATCHES = 64


@dataclass(frozen=True)
class EncoderRecipe:
    """One training run. Progress is counted in patches: places from which two views were drawn.

    AdamW with linear warm-up and cosine decay to zero, both counted in patches.
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
        _ = self.optimizer  # raises ValueError on invalid values
        if self.views.crop_px < self.encoder.least_px:
            raise ValueError(
                f"crop_px {self.views.crop_px} is too small: the last feature map would be empty"
            )

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
    """Progress of a run; `accuracy` is the share of views whose partner ranks first."""

    patches: int
    seconds: float
    end: float  # patches of the whole run
    patches_per_s: float  # in this call, validation included
    loss: float
    accuracy: float
    scores: EncoderScores

    @classmethod
    def of(
        cls, pace: Pace, history: list[tuple[float, float]], scores: EncoderScores
    ) -> EncoderProgress:
        loss, accuracy = (sum(values) / len(values) for values in zip(*history, strict=True))
        now = pace.patches, pace.seconds, pace.end, pace.patches_per_s
        return cls(*now, loss, accuracy, scores)

    def as_line(self) -> str:
        """Formats loss and retrieval in one line."""
        return (
            f"loss {self.loss:.3f}, partner found {self.accuracy:.0%} in training,"
            f" {self.scores.retrieval:.0%} in validation"
        )


@dataclass(frozen=True)
class TrainedEncoder:
    """The result of a run."""

    encoder: Encoder
    patches: int
    seconds: float


def train_encoder(
    recipe: EncoderRecipe,
    data: Path,
    valid: Path,
    out: Path,
    report: Callable[[EncoderProgress], None],
    control: Control | None = None,
) -> TrainedEncoder:
    """Trains an encoder and returns its moving average; resumes from `out`/checkpoint.pt.

    A checkpoint is written atomically at every validation, every few minutes, and when `control`
    asks to stop, which raises StoppedError. What a step draws depends only on the seed and the
    patches seen, so on a CPU a resumed run ends with identical weights.
    """
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = ViewSampler(data, recipe.views)
    parts = _built_parts(recipe, device)
    pace = Pace(recipe, control or Control(), World(0, 1, device))
    checkpoint = TrainingCheckpoint(out, asdict(recipe), vars(parts))
    pace.resume(checkpoint.load(pace.fits)[0])

    history: list[tuple[float, float]] = []  # loss and accuracy of each step
    while not pace.ends:
        if pace.begins_cooldown:  # from the first patch on: there is no state before it to keep
            pace.cooling = True
        for group in parts.optimizer.param_groups:
            group["lr"] = learning_rate(recipe.optimizer, pace.patches, pace.end)
        views = sampler.draw(recipe.batch, np.random.default_rng((recipe.seed, pace.patches)))
        history.append(_step(recipe, parts, views, device))
        pace.count()
        if not math.isfinite(history[-1][0]):
            raise SlidesrError(f"{out}: the loss is not a number after {pace.patches} patches")
        validates = pace.ends or pace.passed(recipe.validate_every)
        if validates or pace.saves or pace.stops:
            checkpoint.save(pace.reached)
            pace.saved()
        if validates:
            scores = score_encoder(parts.averaged_encoder, valid, recipe.views)
            report(EncoderProgress.of(pace, history, scores))
            history.clear()
        pace.stop_if_asked()
    encoder = parts.averaged_encoder.eval()
    balance(encoder, sampler.draw(_BALANCING_PATCHES, np.random.default_rng(recipe.seed)).first)
    return TrainedEncoder(encoder.half().float(), pace.patches, pace.seconds)  # as stored


def info_nce(
    first: Tensor, second: Tensor, degraded: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Computes the loss (arXiv 2002.05709, eq. 1) and the share of views whose partner is nearest.

    Inputs are f32[n, d] each, row i from the same place. The negatives of a view are all views of
    other places and all degraded copies.
    """
    views = torch.cat([first, second])
    keys = F.normalize(torch.cat([views, degraded]), dim=1)
    logits = F.normalize(views, dim=1) @ keys.T / temperature  # [2n, 3n]
    itself = torch.eye(len(views), len(keys), dtype=torch.bool, device=views.device)
    logits = logits.masked_fill(itself, -torch.inf)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    accuracy = (logits.argmax(1) == partner).float().mean()
    return F.cross_entropy(logits, partner), accuracy


@torch.no_grad()
def balance(encoder: Encoder, views: Tensor) -> None:
    """Scales each stage's features to a mean square of 1 on these views, preserving distances.

    The head's batch norm lets the scale of the features drift by orders of magnitude. A positive
    factor passes through ReLU and pooling and is undone in the weights of the next stage.
    """
    squares = [features.square().mean() for features in encoder(views.to(encoder.mean.device))]
    before: Tensor = torch.ones(())
    for stage, square in zip(encoder.stages, squares, strict=True):
        first, second = (layer for layer in stage.children() if isinstance(layer, nn.Conv2d))
        first.weight.div_(before)
        before = square.rsqrt()
        for parameter in second.parameters():
            parameter.mul_(before)


@dataclass(frozen=True)
class _Parts:
    """Networks and optimizer of a run, under their names in the checkpoint."""

    network: _Contrastive
    average: AveragedModel
    optimizer: torch.optim.Optimizer

    @property
    def averaged_encoder(self) -> Encoder:
        return cast(Encoder, self.average.module)


def _built_parts(recipe: EncoderRecipe, device: torch.device) -> _Parts:
    network: _Contrastive = _Contrastive(recipe.encoder).to(  # type: ignore[call-overload]
        device, memory_format=training_format(device)
    )
    average = AveragedModel(
        network.encoder,
        multi_avg_fn=get_ema_multi_avg_fn(recipe.ema),  # type: ignore[no-untyped-call]
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    return _Parts(network, average, optimizer)


def _step(
    recipe: EncoderRecipe, parts: _Parts, views: Views, device: torch.device
) -> tuple[float, float]:
    """Takes one optimizer step; returns its loss and accuracy."""
    network = parts.network
    with mixed_precision(device):
        projected = network(torch.cat([views.first, views.second, views.degraded]).to(device))
    loss, accuracy = info_nce(*projected.float().chunk(3), temperature=recipe.temperature)
    parts.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    parts.optimizer.step()
    parts.average.update_parameters(network.encoder)
    return loss.item(), accuracy.item()


class _Contrastive(nn.Module):
    """The encoder with a projection head that is discarded after training.

    The head's batch norm centres the features, which initially all lie in one narrow cone.
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
