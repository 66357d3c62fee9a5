"""What is compared: everything that enlarges an image by a scale, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from slidesr.benchmark.third_party import ThirdParty
from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.imaging.resample import back_projected, bicubic_up
from slidesr.model.device import Engine
from slidesr.model.model import Model, load_model
from slidesr.model.weights import ModelSpec, find_model, is_third_party, list_models, read_spec

BICUBIC = "bicubic"


@dataclass(frozen=True)
class Method:
    """Enlarges u8[h, w, 3] to u8[h*scale, w*scale, 3]; `facts` are what a reader wants to know."""

    name: str
    enlarge: Callable[[Pixels], Pixels]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """A model to compare: a shipped name or a file, and `upscale`'s options for it.

    A file may be of others, to which those options do not apply.
    """

    name_or_path: str
    perception: float | None = None
    tolerance: float | None = None

    @classmethod
    def parse(cls, text: str, tolerance: float | None = None) -> Wanted:
        """
        >>> Wanted.parse("wa-srgan-x4@0.5")
        Wanted(name_or_path='wa-srgan-x4', perception=0.5, tolerance=None)
        """
        name, at, share = text.rpartition("@")
        try:
            return cls(name if at else text, float(share) if at else None, tolerance)
        except ValueError:
            return cls(text, None, tolerance)  # a file whose name has an @

    @cached_property
    def scale(self) -> int:
        if self._is_of_others:
            return ThirdParty(self._path, Engine()).scale
        return read_spec(self._path).generator.scale

    def method(self, engine: Engine) -> Method:
        if not self._is_of_others:
            options = {"perception": self.perception, "tolerance": self.tolerance}
            return of_model(load_model(self.name_or_path, engine, **options))
        if self.perception is not None or self.tolerance is not None:
            raise RefusedError(f"{self._path}: not a model of slidesr, so no @ and no --tolerance")
        return of_others(ThirdParty(self._path, engine))

    @property
    def _path(self) -> Path:
        return find_model(self.name_or_path)

    @property
    def _is_of_others(self) -> bool:
        return is_third_party(self._path)


def wanted_models(
    texts: Sequence[str], scales: Sequence[int], tolerance: float | None = None
) -> list[Wanted]:
    """The models asked for, each of one of the scales, or all that are shipped.

    Of the shipped ones the baselines come first, and fidelity before GAN. With a tolerance each is
    there twice, the second time made consistent to it.
    """
    texts = texts or [spec.name for spec in _shipped(scales)]
    tolerances = [None] if tolerance is None else [None, tolerance]
    wanted = [Wanted.parse(text, each) for text in texts for each in tolerances]
    for each in wanted:
        if each.scale not in scales:
            told = ", ".join(f"x{scale}" for scale in scales)
            raise RefusedError(f"{each.name_or_path} is x{each.scale}; compared are {told}")
    return wanted


def _shipped(scales: Sequence[int]) -> list[ModelSpec]:
    def rank(spec: ModelSpec) -> tuple[bool, str, str]:
        return spec.generator.architecture == "WA-SRGAN", spec.stage, spec.name

    specs = [spec for _, spec in list_models() if spec.generator.scale in scales]
    return sorted(specs, key=rank)


def methods_for(wanted: Sequence[Wanted], engine: Engine, scale: int) -> list[Method]:
    """The classical methods, then those of the models that enlarge by `scale`."""
    models = [each.method(engine) for each in wanted if each.scale == scale]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise RefusedError(f"two models are named {name}. Give one of them.")
    return [*classical(scale), *models]


def classical(scale: int) -> list[Method]:
    """What learns nothing."""
    facts = {"kind": "classical"}
    return [
        Method("nearest", lambda low: low.repeat(scale, 0).repeat(scale, 1), facts),
        Method(BICUBIC, lambda low: bicubic_up(low, scale), facts),
        Method("bicubic + back-projection", lambda low: back_projected(low, scale), facts),
    ]


def of_model(model: Model) -> Method:
    """A model as a method."""
    spec, engine = model.spec, model.engine
    facts = {
        "kind": spec.generator.architecture,
        "norm": spec.generator.norm,
        "stage": spec.stage,
        "sha256": model.sha256,
        "trained on": f"{spec.training.get('patches', 0):,} patches",
        "runs on": f"{engine.device.partition(':')[0]}, {engine.precision}",
    }
    return Method(model.label, model.enlarge, facts)


def of_others(network: ThirdParty) -> Method:
    """A network of others as a method."""
    facts = {
        "kind": network.architecture,
        "sha256": network.sha256,
        "runs on": f"{network.device}, {network.precision}",
    }
    return Method(network.name, network.enlarge, facts)


def leading(methods: Sequence[Method]) -> Method:
    """The one whose best and worst cases are shown: our own for fidelity, else the last."""
    faithful = [method for method in methods if method.facts.get("stage") == "fidelity"]
    return (faithful or list(methods))[-1]
