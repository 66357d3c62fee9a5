"""A training recipe: one frozen dataclass, read from TOML and saved with its result."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from slidesr.errors import RefusedError
from slidesr.nets.generator import GeneratorSpec

_T = TypeVar("_T")


@dataclass(frozen=True)
class DataRecipe:
    """What is drawn, and how it is varied. Sizes are high-resolution pixels."""

    patch_px: int = 128
    context_px: int = 16  # drawn around a patch, so that its low resolution has no border effect
    weights: dict[str, float] = field(default_factory=dict)  # by top folder, by area; 1 if absent
    stain_jitter: float = 0.0  # largest relative change of a stain's density (Tellez 2018)
    jpeg_share: float = 0.0  # of the low resolutions, compressed as slides are stored
    jpeg_quality: tuple[int, int] = (30, 95)  # worst and best, drawn evenly

    def __post_init__(self) -> None:
        if self.patch_px < 1 or self.context_px < 0:
            raise ValueError("patch_px must be positive, context_px at least 0")
        if not 0 <= self.jpeg_share <= 1:
            raise ValueError(f"jpeg_share {self.jpeg_share} is not within 0..1")
        worst, best = self.jpeg_quality
        if not 1 <= worst <= best <= 100:
            raise ValueError("jpeg_quality must be two of 1..100, the worse one first")


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with a linear warm-up and a cosine to zero, both counted in patches."""

    learning_rate: float = 5e-4
    warmup: int = 2_000
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.999


@dataclass(frozen=True)
class Recipe:
    """One training run. Progress is counted in patches seen."""

    name: str
    generator: GeneratorSpec
    patches: int
    high_um_per_px: tuple[float, float]  # finest and coarsest pixel size in the training images
    batch: int = 16
    loss: str = "l1"
    start: str = ""  # weights to begin with: a shipped model's name or a file
    seed: int = 0
    validate_every: int = 8_000
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name {self.name!r} is not a plain file name")
        for key in ("patches", "batch", "seed", "validate_every"):
            if type(getattr(self, key)) is not int:
                raise ValueError(f"{key} {getattr(self, key)!r} is not a whole number")
        lr_px, rest = divmod(self.data.patch_px, self.generator.scale)
        if rest or lr_px % self.generator.window:
            raise ValueError(
                f"patch_px {self.data.patch_px} at x{self.generator.scale} is not a whole number"
                f" of attention windows of {self.generator.window} px"
            )
        if self.data.context_px % self.generator.scale:
            raise ValueError(
                f"context_px {self.data.context_px} is not a multiple of the scale"
                f" {self.generator.scale}"
            )
        if self.loss not in ("l1", "charbonnier", "mse"):
            raise ValueError(f"loss {self.loss!r} is not one of 'l1', 'charbonnier', 'mse'")
        if (
            len(self.high_um_per_px) != 2
            or not 0 < self.high_um_per_px[0] <= self.high_um_per_px[1]
        ):
            raise ValueError("high_um_per_px must be two pixel sizes, the finer one first")
        if self.batch < 1 or self.patches < self.batch or self.validate_every < self.batch:
            raise ValueError("patches and validate_every must be at least batch, batch at least 1")


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe from TOML; a key that no field takes is an error."""
    try:
        return _build(Recipe, tomllib.loads(path.read_text()), "")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise RefusedError(f"{path}: not a training recipe: {error}") from error


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, as it goes into a checkpoint and a model's header."""
    return asdict(recipe)


def _build(kind: type[_T], table: dict[str, Any], where: str) -> _T:
    hints = get_type_hints(kind)
    unknown = set(table) - {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"no such key: {where}{sorted(unknown)[0]}")
    values = {
        key: _build(hints[key], value, f"{where}{key}.") if is_dataclass(hints[key]) else value
        for key, value in table.items()
    }
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
