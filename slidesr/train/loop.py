"""The training loop, whole and visible; progress is counted in patches."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from slidesr.errors import RefusedError, SlidesrError
from slidesr.images import group_of, image_paths, read_rgb
from slidesr.model import find_model, read_model
from slidesr.nets.generator import Generator
from slidesr.nets.layers import bicubic
from slidesr.train.data import PatchSampler, downsample
from slidesr.train.recipe import OptimizerRecipe, Recipe, recipe_as_dict

_UNREADABLE = (OSError, EOFError, UnpicklingError, RuntimeError, ValueError, TypeError, LookupError)


@dataclass(frozen=True)
class Progress:
    """Where a run stands; PSNR on the validation images, by data set, beside bicubic's."""

    patches: int
    seconds: float
    loss: float
    psnr_db: dict[str, float]
    bicubic_psnr_db: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """What came of a run: the generator, and the patches and seconds that it took."""

    generator: Generator
    patches: int
    seconds: float


def train(
    recipe: Recipe,
    data: Path,
    valid: Path,
    out: Path,
    report: Callable[[Progress], None],
) -> Trained:
    """Trains a generator, whose moving average is the result; resumes from `out`/checkpoint.pt.

    The state is saved at every validation, whole or not at all, with every random state: on a CPU
    a resumed run gives the weights of one that was never stopped.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = PatchSampler(data, recipe.data, scale=recipe.generator.scale)
    validation = _Validation(valid, recipe.generator.scale, recipe.generator.window)

    generator: Generator = _begun(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(
        generator, multi_avg_fn=_warm_average(recipe.optimizer.ema), use_buffers=True
    )
    optimizer = torch.optim.AdamW(
        generator.parameters(),
        lr=recipe.optimizer.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=recipe.optimizer.weight_decay,
    )
    state = _Checkpoint(out / "checkpoint.pt", recipe, generator, average, optimizer, rng)
    patches, seconds = state.load()

    started = time.monotonic() - seconds
    losses: list[float] = []
    while patches < recipe.patches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe.optimizer, patches, recipe.patches)
        pair = sampler.draw(recipe.batch, rng)
        high, low = (
            part.to(device, memory_format=torch.channels_last) for part in (pair.high, pair.low)
        )
        with torch.autocast(device.type, torch.bfloat16):
            made = generator(low)
        loss = pixel_loss(recipe.loss, made.float(), high)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(generator.parameters(), recipe.optimizer.clip_norm)
        optimizer.step()
        average.update_parameters(generator)

        before, patches = patches, patches + recipe.batch
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise SlidesrError(f"{out}: the loss is not a number after {patches} patches")
        due = before // recipe.validate_every != patches // recipe.validate_every
        if due or patches >= recipe.patches:
            seconds = time.monotonic() - started
            state.save(patches, seconds)
            report(
                Progress(
                    patches=patches,
                    seconds=seconds,
                    loss=sum(losses) / len(losses),
                    psnr_db=validation.psnr_db(average.module),
                    bicubic_psnr_db=validation.bicubic_psnr_db,
                )
            )
            losses.clear()
    trained: nn.Module = average.module
    as_stored = cast(Generator, trained.eval().half().float())
    return Trained(as_stored, patches, time.monotonic() - started)


def _begun(recipe: Recipe) -> Generator:
    """A generator with random weights, or with those that the recipe starts from."""
    generator = Generator(recipe.generator)
    if recipe.start:
        path = find_model(recipe.start)
        spec, start = read_model(path)
        if spec.generator != recipe.generator:
            raise RefusedError(f"{path}: another network than the recipe's: {spec.generator}")
        generator.load_state_dict(start.state_dict())
    return generator


def learning_rate(recipe: OptimizerRecipe, patches: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (patches + 1) / max(1, recipe.warmup))
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * patches / total))


def _warm_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that does not start from the random first weights."""

    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        step = int(count)
        warm = min(decay, (1 + step) / (10 + step))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - warm)
        else:  # batch norm's counters
            torch._foreach_copy_(averages, values)

    return update


def pixel_loss(name: str, made: Tensor, high: Tensor) -> Tensor:
    """The fidelity losses, by name; images in 0..1."""
    if name == "charbonnier":
        return torch.sqrt((made - high) ** 2 + 1e-6).mean()
    return F.mse_loss(made, high) if name == "mse" else F.l1_loss(made, high)


class _Validation:
    """Validation images and bicubic's score on them; a folder's score is its images' mean."""

    def __init__(self, folder: Path, scale: int, window: int) -> None:
        self._items: list[tuple[str, Tensor, Tensor]] = []
        for path in image_paths(folder):
            image = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].float()
            side = scale * window
            if min(image.shape[2:]) < side:
                raise RefusedError(f"{path}: smaller than one attention window, {side} px")
            image = image[:, :, : image.shape[2] // side * side, : image.shape[3] // side * side]
            low = downsample(image, scale) / 255
            self._items.append((group_of(path, folder), image, low))
        self.bicubic_psnr_db = self._score(lambda low: bicubic(low, scale))

    def psnr_db(self, generator: nn.Module) -> dict[str, float]:
        device = next(generator.parameters()).device
        was_training = generator.training
        generator.eval()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            scores = self._score(lambda low: generator(low.to(device)).float().cpu())
        generator.train(was_training)
        return scores

    def _score(self, enlarge: Callable[[Tensor], Tensor]) -> dict[str, float]:
        scores: dict[str, list[float]] = {}
        for top, high, low in self._items:
            made = (enlarge(low) * 255).round().clamp(0, 255)
            mse = float(F.mse_loss(made, high))
            scores.setdefault(top, []).append(10 * math.log10(255**2 / max(mse, 1e-10)))
        return {top: sum(values) / len(values) for top, values in scores.items()}


class _Checkpoint:
    """Everything that a run needs to go on, in one file that is whole or absent."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        generator: nn.Module,
        average: nn.Module,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
    ) -> None:
        self._path, self._recipe = path, json.dumps(recipe_as_dict(recipe), sort_keys=True)
        self._modules: dict[str, Any] = {
            "generator": generator,
            "average": average,
            "optimizer": optimizer,
        }
        self._rng = rng

    def load(self) -> tuple[int, float]:
        """Restores the run in place; the patches seen and seconds spent, zeros without a file."""
        if not self._path.exists():
            return 0, 0.0
        try:
            saved: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            if saved["recipe"] == self._recipe:
                return self._restore(saved)
        except _UNREADABLE as error:
            raise RefusedError(
                f"{self._path}: not a whole checkpoint of slidesr. Delete it to start anew."
            ) from error
        raise RefusedError(f"{self._path}: made by another recipe. Choose another --output.")

    def _restore(self, saved: dict[str, Any]) -> tuple[int, float]:
        for name, module in self._modules.items():
            module.load_state_dict(saved[name])
        torch.set_rng_state(saved["torch_rng"])
        self._rng.bit_generator.state = json.loads(saved["numpy_rng"])
        return saved["patches"], saved["seconds"]

    def save(self, patches: int, seconds: float) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        state = {name: module.state_dict() for name, module in self._modules.items()}
        state |= {"recipe": self._recipe, "patches": patches, "seconds": seconds}
        state |= {
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": json.dumps(self._rng.bit_generator.state),
        }
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
