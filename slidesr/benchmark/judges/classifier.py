"""A classifier of patches, fine-tuned from ImageNet weights: all layers, several seeds.

ResNeXt-101 32x8d if its weights are given, as the paper has it, otherwise EfficientNet-Lite0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from slidesr.benchmark.judges.labels import Plan
from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging.augmentation import drawn_jitter, turned
from slidesr.model.device import mixed_precision
from slidesr.model.imagenet import efficientnet_lite_features, resnext101_features
from slidesr.model.weights import sha256_of
from slidesr.nets.layers import as_tensor
from slidesr.slide.image_files import read_rgb

MIN_SIDE_PX = 64  # of a training image: the networks reduce 32 times
_LITE0, _RESNEXT101 = "EfficientNet-Lite0", "ResNeXt-101 32x8d"
_LEAST_STEPS = 6  # with a warm-up of a fifth, OneCycleLR divides by zero at 5
_TOGETHER_PX = 2**20  # pixels a network is shown at once in a test

_log = logging.getLogger(__name__)

_F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ClassifierRecipe:
    """How classifiers are fine-tuned.

    Chosen roughly, by leaving out each slide of 53 patches of Camelyon16: AUC of two seeds 0.93
    with 8 as with 4 epochs; one seed of 4 epochs at three times these rates fell from 0.87 to 0.73.
    """

    resnext101: Path | None = None  # weights; EfficientNet-Lite0 if None
    seeds: int = 5
    epochs: int = 8  # an epoch draws as many patches as there are images
    batch: int = 16
    crop_px: int = 224  # the networks' side on ImageNet, or the least side of the images
    body_rate: float = 1e-4  # largest learning rates, of AdamW
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    stain_jitter: float = 0.1  # relative, see `imaging.augmentation`
    colour_jitter: float = 0.05
    device: str = "cpu"

    @property
    def network(self) -> str:
        return _RESNEXT101 if self.resnext101 else _LITE0


class Classifier:
    """A fine-tuned network, in evaluation mode."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network, self._device = network, device

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Pixels]) -> _F32:
        """Returns the probability that each image is positive: n of u8[h, w, 3] -> f32[n].

        An image is judged as a whole, at its own pixel size: the last map is averaged over all
        places, so its size may differ from that of the training crops, and no part is left out.
        """
        together = max(1, _TOGETHER_PX // images[0][..., 0].size)
        logits = []
        for first in range(0, len(images), together):
            batch = torch.cat([as_tensor(image) for image in images[first : first + together]])
            with mixed_precision(self._device):
                logits.append(self._network(batch.to(self._device)).float())
        probabilities: _F32 = torch.sigmoid(torch.cat(logits))[:, 0].cpu().numpy()
        return probabilities


def fine_tuned(
    images: Sequence[Pixels], labels: Sequence[bool], recipe: ClassifierRecipe, seed: int
) -> Classifier:
    """Fine-tunes a classifier on images, u8[h, w, 3]; deterministic on a CPU.

    Half of every batch is positive. Batch norm keeps its statistics of ImageNet: those of a batch
    of 16 patches of few slides vary too much, and would differ between training and test. A network
    in evaluation mode does just that, and nothing at random, such as dropout.

    Memory: 3 GB for a batch of 16 at 224 px with EfficientNet-Lite0.
    """
    device, rng = torch.device(recipe.device), np.random.default_rng(seed)
    network = _network(recipe, seed).to(device).eval()
    body, head = (part.parameters() for part in network.children())
    rates = [recipe.body_rate, recipe.head_rate]
    optimiser = torch.optim.AdamW(
        [{"params": body, "lr": rates[0]}, {"params": head, "lr": rates[1]}],
        weight_decay=recipe.weight_decay,
    )
    order = _balanced_order(np.asarray(labels), recipe, rng)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=len(order), pct_start=0.2, cycle_momentum=False
    )
    crop_px = min(recipe.crop_px, *(min(image.shape[:2]) for image in images))
    for batch in order:
        patches = torch.cat(
            [as_tensor(_augmented(images[i], crop_px, recipe, rng)) for i in batch]
        ).to(device)
        truth = torch.tensor([[float(labels[i])] for i in batch], device=device)
        with mixed_precision(device):
            logits = network(patches)
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits.float(), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return Classifier(network.requires_grad_(False), device)


class Classifiers:
    """The classifiers of a plan, one per lesson and seed, kept once they are trained.

    Memory: 14 MB for each with EfficientNet-Lite0, 350 MB with ResNeXt-101.
    """

    def __init__(self, plan: Plan, recipe: ClassifierRecipe) -> None:
        self.plan, self.recipe = plan, recipe
        self._trained: dict[int, list[Classifier]] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the classifiers, besides the images they learn from."""
        recipe = self.recipe
        return {
            "classifier": recipe.network,
            **({"resnext101_sha256": sha256_of(recipe.resnext101)} if recipe.resnext101 else {}),
            "classifier_seeds": recipe.seeds,
            "classifier_epochs": recipe.epochs,
            "classifier_lessons": len(self.plan.lessons),
        }

    @property
    def record(self) -> list[Any]:
        """Who learns what and judges what, to tell one plan from another."""
        lessons = [
            [(each.pair.subject.name, each.group, each.is_positive) for each in lesson.examples]
            for lesson in self.plan.lessons
        ]
        return [lessons, sorted(self.plan.lesson_of.items())]

    def train(self, indices: Sequence[int], report: Callable[[int, int], None]) -> None:
        """Trains those that judge the images of these indices.

        `report` receives the number of trained and of all classifiers.
        """
        needed = {self.plan.lesson_of[index] for index in indices if index in self.plan.lesson_of}
        missing = sorted(needed - self._trained.keys())
        seeds, total = self.recipe.seeds, len(missing) * self.recipe.seeds
        if missing:
            _log.info("fine-tuning %d classifiers (%s)", total, self.recipe.network)
        for done, lesson in enumerate(missing):
            report(done * seeds, total)
            examples = self.plan.lessons[lesson].examples
            images = [_teaching_image(each.pair.high) for each in examples]
            labels = [each.is_positive for each in examples]
            trained = []
            for seed in range(seeds):
                trained.append(fine_tuned(images, labels, self.recipe, seed))
                report(done * seeds + seed + 1, total)
            self._trained[lesson] = trained

    def probabilities(self, index: int, images: Sequence[Pixels]) -> _F32:
        """Judges versions of an image of the plan: n of u8[h, w, 3] -> f32[seeds, n].

        Versions of other images give f32[0, 0].
        """
        lesson = self.plan.lesson_of.get(index)
        if lesson is None:
            return np.empty((0, 0), np.float32)
        self.train([index], lambda done, total: None)
        return np.stack([each.probabilities(images) for each in self._trained[lesson]])


def _teaching_image(path: Path) -> Pixels:
    image = read_rgb(path)
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise RefusedError(f"{path}: a classifier learns from at least {MIN_SIDE_PX} px per side")
    return image


def _balanced_order(
    labels: NDArray[np.bool_], recipe: ClassifierRecipe, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draws the indices of all batches: half of each class, each class in turns of its images."""
    steps = max(_LEAST_STEPS, round(recipe.epochs * len(labels) / recipe.batch))
    half = recipe.batch // 2
    drawn = []
    for value in (True, False):
        own = np.flatnonzero(labels == value)
        turns = -(-steps * half // len(own))
        order = np.concatenate([rng.permutation(own) for _ in range(turns)])
        drawn.append(order[: steps * half].reshape(steps, half))
    return list(np.concatenate(drawn, axis=1))


def _augmented(
    image: Pixels, crop_px: int, recipe: ClassifierRecipe, rng: np.random.Generator
) -> Pixels:
    """Cuts a random square; then one of its eight symmetries, and a mild jitter of the stain."""
    row, column = (int(rng.integers(side - crop_px + 1)) for side in image.shape[:2])
    crop = image[row : row + crop_px, column : column + crop_px]
    crop = turned(crop, int(rng.integers(4)), mirrored=rng.random() < 0.5)
    return drawn_jitter(recipe.stain_jitter, recipe.colour_jitter, rng).applied(crop)


def _network(recipe: ClassifierRecipe, seed: int) -> nn.Sequential:
    """The body with ImageNet weights, and a new last layer: [n, 3, h, w] in 0..1 -> [n, 1]."""
    body, width = _trainable(recipe.network, recipe.resnext101)
    head = nn.Linear(width, 1)
    nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.bias)
    return nn.Sequential(body, head).to(memory_format=torch.channels_last)


def _trainable(name: str, weights: Path | None) -> tuple[nn.Module, int]:
    """A network up to its last layer, [n, 3, h, w] in 0..1 -> [n, d], and d."""
    if name == _RESNEXT101 and weights is not None:
        return resnext101_features(weights), 2048
    return efficientnet_lite_features(0), 1280
