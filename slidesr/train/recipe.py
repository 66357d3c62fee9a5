"""Training recipes: frozen dataclasses read from TOML and stored with the weights."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from slidesr.errors import RefusedError
from slidesr.nets.critic import ADVERSARIAL_LOSSES, CriticSpec
from slidesr.nets.generator import GeneratorSpec
from slidesr.runtime.bundled_files import bundled_folder, bundled_or_file
from slidesr.train.data import DataRecipe

_T = TypeVar("_T")
_LITE0_MAPS = (1, 2, 3, 4, 5)  # from fine to coarse


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW or Muon: a linear warm-up, a constant learning rate and a cooldown, in patches.

    Muon (`slidesr.train.muon`) learns more from the same patches in training from random weights.
    """

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 2_000
    cooldown: float = 1.0  # the last share of the run, over which the rate falls to 0 by a cosine
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.999  # decay of the moving average of the weights; 0 disables it
    kind: str = "adamw"  # or "muon"

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "muon"):
            raise ValueError(f"kind {self.kind!r} is not one of 'adamw', 'muon'")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown {self.cooldown} is not a share in [0, 1]")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema < 1):
            raise ValueError("learning_rate and clip_norm must be positive, ema in [0, 1)")
        if not (self.weight_decay >= 0 and self.warmup >= 0):
            raise ValueError("weight_decay and warmup must be at least 0")
        _check_betas(self.betas)


def cooldown_begin(recipe: OptimizerRecipe, end: float) -> float:
    """Patches after which the learning rate begins to fall, in a run of `end` patches.

    >>> cooldown_begin(OptimizerRecipe(cooldown=0.25), 1000)
    750.0
    """
    return end * (1 - recipe.cooldown) if recipe.cooldown < 1 else 0.0


def learning_rate(recipe: OptimizerRecipe, patches: int, end: float) -> float:
    """Computes the learning rate after `patches` of a run of `end` patches, which may be inf."""
    warm = min(1.0, (patches + 1) / max(1, recipe.warmup))
    begin = cooldown_begin(recipe, end)
    if patches <= begin or math.isinf(end):
        return recipe.learning_rate * warm
    share = min(1.0, (patches - begin) / (end - begin))
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the generator's losses on images in 0..1; a weight of 0 disables a loss.

    There are two perceptual losses: by ImageNet features (EfficientNet-Lite0) and by the histology
    encoder. If the user supplies VGG19's weights, VGG19 with its own weight replaces both.

    With `balanced`, the weights of the losses by networks are multiples of the pixel loss's
    gradient: in every step each of these losses is scaled so that the norm of its gradient at the
    output is that of the pixel loss times its weight (VQGAN's rule: Esser et al. 2021, arXiv
    2012.09841, eq. 7, at the output instead of the last layer).
    """

    pixel: str = "l1"
    pixel_weight: float = 1.0
    balanced: bool = False
    perceptual_weight: float = 0.0  # histology encoder
    lite0_weight: float = 0.0
    lite0_stages: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)  # of its maps, fine to coarse
    vgg19_weight: float = 0.0
    vgg19_normalised: bool = True  # normalise inputs with ImageNet's mean and deviation
    adversarial_weight: float = 0.0
    feature_matching_weight: float = 0.0
    frequency_weight: float = 0.0
    colour_weight: float = 0.0
    grid_weight: float = 0.0
    border_weight: float = 0.0
    border_detail_weight: float = 0.0
    judged_px: int = 1  # average-pooling before critic and perceptual network
    total_variation_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.pixel not in ("l1", "charbonnier", "mse"):
            raise ValueError(f"pixel {self.pixel!r} is not one of 'l1', 'charbonnier', 'mse'")
        if self.judged_px < 1:
            raise ValueError(f"judged_px {self.judged_px} is not positive")
        weights = {key: value for key, value in vars(self).items() if key.endswith("_weight")}
        for key, value in weights.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} {value!r} is not a finite weight of at least 0")
        if len(self.lite0_stages) != 5 or not all(
            0 <= each < math.inf for each in self.lite0_stages
        ):
            raise ValueError(
                f"lite0_stages {self.lite0_stages!r} are not five weights of at least 0"
            )
        if self.balanced and not self.pixel_weight:
            raise ValueError("balanced: the other losses are weighed against a pixel_weight of 0")
        of_critic = {
            "adversarial_weight",
            "feature_matching_weight",
        }  # may start late, or never apply
        if not any(value for key, value in weights.items() if key not in of_critic):
            raise ValueError(
                "no loss has a weight except the critic's: set pixel_weight, for example"
            )


@dataclass(frozen=True)
class CriticRecipe:
    """The critic and its training; by default WGAN-GP (Gulrajani 2017, arXiv 1704.00028)."""

    sees: str = "pixels"  # or "lite0": the maps of EfficientNet-Lite0 (arXiv 2111.01007)
    maps: tuple[int, ...] = _LITE0_MAPS  # which of them
    norm: str = "weight"
    channels: int = 64
    loss: str = "wasserstein"  # or "hinge", "relativistic"
    steps: int = 1  # critic steps per generator step, each on patches of its own
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    penalty: str = "unit"  # WGAN-GP's, between images; or "zero": R1 and R2, at the images
    penalty_weight: float = 10.0
    penalty_every: int = 1  # in critic steps; scales the penalty accordingly (arXiv 1912.04958)
    penalty_mix: str = "uniform"  # "normal" as in the published code
    begins_after: int = 0  # patches to train the generator alone first
    reaches_generator: bool = True  # False as in the published code: gradients are detached

    def __post_init__(self) -> None:
        if self.sees not in ("pixels", "lite0"):
            raise ValueError(f"sees {self.sees!r} is not one of 'pixels', 'lite0'")
        if not self.maps or not set(self.maps) <= set(_LITE0_MAPS):
            raise ValueError(f"maps {self.maps!r} are not numbers from 1 to 5")
        if self.sees == "pixels" and self.maps != _LITE0_MAPS:
            raise ValueError("maps are for a critic that sees lite0")
        if self.penalty_mix not in ("uniform", "normal"):
            raise ValueError(f"penalty_mix {self.penalty_mix!r} is not one of 'uniform', 'normal'")
        if self.loss not in ADVERSARIAL_LOSSES:
            raise ValueError(f"loss {self.loss!r} is not one of {ADVERSARIAL_LOSSES}")
        if self.penalty not in ("unit", "zero"):
            raise ValueError(f"penalty {self.penalty!r} is not one of 'unit', 'zero'")
        if self.penalty == "zero" and self.penalty_mix != "uniform":
            raise ValueError("penalty_mix is for the penalty 'unit' alone")
        if self.steps < 1:
            raise ValueError(f"steps {self.steps} is not positive")
        if not (self.learning_rate > 0 and self.penalty_weight >= 0):
            raise ValueError("learning_rate must be positive, penalty_weight at least 0")
        if self.penalty_every < 1 or self.begins_after < 0:
            raise ValueError("penalty_every must be at least 1, begins_after at least 0")
        CriticSpec(self.norm, self.channels)  # raises ValueError on invalid values
        _check_betas(self.betas)


@dataclass(frozen=True)
class Recipe:
    """One training run. Progress is counted in patches seen."""

    name: str
    generator: GeneratorSpec
    patches: int
    high_um_per_px: tuple[float, float]  # pixel size range of the training images
    batch: int = 16  # total over all devices
    start: str = ""  # initial weights: the name of a shipped model or recipe, or a file of either
    ablates: str = ""  # name of the recipe that this one repeats without its critic
    seed: int = 0
    validate_every: int = 8_000
    loss: LossRecipe = field(default_factory=LossRecipe)
    critic: CriticRecipe | None = None
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name {self.name!r} is not a plain file name")
        for key in ("patches", "batch", "seed", "validate_every"):
            if type(getattr(self, key)) is not int:
                raise ValueError(f"{key} {getattr(self, key)!r} is not a whole number")
        if (
            len(self.high_um_per_px) != 2
            or not 0 < self.high_um_per_px[0] <= self.high_um_per_px[1]
        ):
            raise ValueError("high_um_per_px must be two pixel sizes, the smaller first")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is negative")
        if self.batch < 1 or self.patches < self.batch or self.validate_every < self.batch:
            raise ValueError("patches and validate_every must be at least batch, batch at least 1")
        self._check_patch()
        if not self.critic and (self.loss.adversarial_weight or self.loss.feature_matching_weight):
            raise ValueError("an adversarial or feature matching loss needs a [critic]")
        if self.critic and self.ablates:
            raise ValueError(f"ablates {self.ablates!r} is for a run without its [critic]")

    def _check_patch(self) -> None:
        scale, grid_px = self.generator.scale, self.generator.grid_px
        low_px, rest = divmod(self.data.patch_px, scale)
        if rest or low_px % grid_px:
            raise ValueError(
                f"patch_px {self.data.patch_px} at x{scale} is not a multiple of the attention"
                f" window of {grid_px} px"
            )
        for key in ("border_weight", "border_detail_weight"):
            if getattr(self.loss, key) and not (self.generator.window and low_px > grid_px):
                raise ValueError(f"{key} needs patches of two attention windows or more a side")
        if self.data.patch_px % self.loss.judged_px:
            raise ValueError(f"patch_px is not a multiple of judged_px {self.loss.judged_px}")
        if self.data.context_px % scale:
            raise ValueError(
                f"context_px {self.data.context_px} is not a multiple of the scale {scale}"
            )

    @property
    def critic_steps(self) -> int:
        """Batches drawn for one generator step: each critic step has one of its own."""
        return self.critic.steps if self.critic else 1

    @property
    def stage(self) -> str:
        """Returns "gan" if an adversarial or perceptual loss is used, else "fidelity"."""
        loss = self.loss
        perceptual = (
            loss.perceptual_weight
            + loss.lite0_weight
            + loss.vgg19_weight
            + loss.feature_matching_weight
        )
        adversarial = bool(self.critic and self.critic.reaches_generator)
        return "gan" if perceptual or (adversarial and loss.adversarial_weight) else "fidelity"


def _check_betas(betas: tuple[float, float]) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas {betas!r} are not two numbers in [0, 1)")


def without_critic(recipe: Recipe) -> Recipe:
    """The same run with critic, adversarial and feature-matching losses off, under its own name.

    Seed, patches, data and start are the same, so the two differ by what the critic brings. Raises
    RefusedError if there is no critic.
    """
    if recipe.critic is None:
        raise RefusedError(f"{recipe.name} has no critic to leave out")
    loss = replace(recipe.loss, adversarial_weight=0.0, feature_matching_weight=0.0)
    name = f"{recipe.name}-without-critic"
    return replace(recipe, name=name, ablates=recipe.name, critic=None, loss=loss)


def recipes_folder() -> Path:
    """The folder of the shipped recipes: inside an installed wheel, or in the docs."""
    return bundled_folder("_recipes", "docs/recipes")


def find_recipe(name_or_path: str) -> Path:
    """Resolves the name of a shipped recipe, or a path; raises RefusedError if there is none."""
    folder = recipes_folder()
    path = bundled_or_file(name_or_path, folder, ".toml")
    if path:
        return path
    names = ", ".join(sorted(recipe.stem for recipe in folder.glob("*.toml")))
    raise RefusedError(f"{name_or_path}: neither a file nor a shipped recipe ({names})")


def recipe_from_toml(kind: type[_T], path: Path) -> _T:
    """Reads a recipe of any kind; raises RefusedError on invalid files, keys or values."""
    return _recipe(kind, _tables(path), path)


def any_recipe_from_toml(path: Path, encoder_kind: type[_T]) -> Recipe | _T:
    """Reads a recipe for a generator, or for an encoder if it has an [encoder] table."""
    tables = _tables(path)
    if "encoder" in tables:
        return _recipe(encoder_kind, tables, path)
    return _recipe(Recipe, tables, path)


def _recipe(kind: type[_T], tables: dict[str, Any], path: Path) -> _T:
    try:
        return _build(kind, tables)
    except (TypeError, ValueError) as error:
        raise RefusedError(f"{path}: not a training recipe: {error}") from error


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RefusedError(f"{path}: not a training recipe: {error}") from error


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """Converts a recipe to plain data, for checkpoints and model headers."""
    return asdict(recipe)


def _build(kind: type[_T], table: dict[str, Any], where: str = "") -> _T:
    """Builds nested dataclasses from plain data; raises ValueError or TypeError if invalid."""
    hints = get_type_hints(kind)
    unknown = set(table) - {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"no such key: {where}{sorted(unknown)[0]}")
    values = {key: _value(hints[key], value, f"{where}{key}") for key, value in table.items()}
    return kind(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if is_dataclass(kinds[0]):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not a table")
        return _build(cast("type[Any]", kinds[0]), value, f"{name}.")
    allowed = (int, float) if kinds[0] is float else get_origin(kinds[0]) or kinds[0]
    value = tuple(value) if isinstance(value, list) else value
    if not isinstance(value, allowed) or (isinstance(value, bool) and kinds[0] is not bool):
        raise ValueError(f"{name} {value!r} is not of type {kinds[0].__name__}")
    if isinstance(value, tuple):  # homogeneous
        return tuple(_value(get_args(kinds[0])[0], part, name) for part in value)
    if isinstance(value, dict):
        inner = get_args(kinds[0])[1]
        return {key: _value(inner, part, f"{name}.{key}") for key, part in value.items()}
    return value
