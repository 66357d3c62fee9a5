"""The compared upscaling methods: classical filters, our models, and third-party networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
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
    """Upscales u8[h, w, 3] to u8[h*scale, w*scale, 3]; `facts` describe it in reports."""

    name: str
    enlarge: Callable[[Pixels], Pixels]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """A model to compare: a shipped name or a file, with options of `upscale`.

    The file may hold a third-party network, to which these options do not apply.
    """

    name_or_path: str
    perception: float | None = None
    tolerance: float | None = None
    ensemble: bool = False

    @classmethod
    def parse(cls, text: str, tolerance: float | None = None) -> Wanted:
        """Parses NAME or NAME@PERCEPTION.

        >>> Wanted.parse("wa-srgan-x4@0.5")
        Wanted(name_or_path='wa-srgan-x4', perception=0.5, tolerance=None, ensemble=False)
        """
        name, at, share = text.rpartition("@")
        try:
            return cls(name if at else text, float(share) if at else None, tolerance)
        except ValueError:
            return cls(text, None, tolerance)  # a file with an @ in its name

    @cached_property
    def scale(self) -> int:
        if self.is_third_party:
            return ThirdParty(self._path, Engine()).scale
        return read_spec(self._path).generator.scale

    def method(self, engine: Engine) -> Method:
        if not self.is_third_party:
            model = load_model(
                self.name_or_path,
                engine,
                perception=self.perception,
                ensemble=self.ensemble,
                tolerance=self.tolerance,
            )
            return of_model(model)
        if self.perception is not None or self.tolerance is not None:
            raise RefusedError(
                f"{self._path}: not a slidesr model; @ and --tolerance do not apply to it"
            )
        return of_third_party(ThirdParty(self._path, engine))

    @property
    def _path(self) -> Path:
        return find_model(self.name_or_path)

    @property
    def is_third_party(self) -> bool:
        return is_third_party(self._path)


def wanted_models(
    texts: Sequence[str],
    scales: Sequence[int],
    tolerance: float | None = None,
    *,
    ensemble: bool = False,
) -> list[Wanted]:
    """Parses the requested models; without any, returns all shipped models of these scales.

    With a tolerance each model is included twice, without and with consistency enforced; with
    `ensemble` each slidesr model is followed by its ensemble. Raises RefusedError on a model whose
    scale is not compared, and on an ensemble without a slidesr model.
    """
    texts = texts or [spec.name for spec in shipped_models(scales)]
    tolerances = [None] if tolerance is None else [None, tolerance]
    wanted = [Wanted.parse(text, each) for text in texts for each in tolerances]
    if ensemble:
        wanted = list(chain.from_iterable(map(_with_ensemble, wanted)))
        if not any(each.ensemble for each in wanted):
            raise RefusedError("--ensemble is for slidesr models, and none is compared")
    for each in wanted:
        if each.scale not in scales:
            listed = ", ".join(f"x{scale}" for scale in scales)
            raise RefusedError(f"{each.name_or_path} is x{each.scale}, not among {listed}")
    return wanted


def _with_ensemble(wanted: Wanted) -> list[Wanted]:
    return [wanted] if wanted.is_third_party else [wanted, replace(wanted, ensemble=True)]


def shipped_models(scales: Sequence[int]) -> list[ModelSpec]:
    """The shipped models of these scales: baselines first, then fidelity before GAN."""

    def rank(spec: ModelSpec) -> tuple[bool, str, bool, str]:
        ours = spec.generator.architecture == "WA-SRGAN"
        return ours, spec.stage, spec.degradation == "bicubic", spec.name

    specs = [spec for _, spec in list_models() if spec.generator.scale in scales]
    return sorted(specs, key=rank)


def methods_for(wanted: Sequence[Wanted], engine: Engine, scale: int) -> list[Method]:
    """Returns the classical methods, followed by the models of this scale."""
    models = [each.method(engine) for each in wanted if each.scale == scale]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise RefusedError(f"two models are named {name}: give only one of them")
    return [*classical(scale), *models]


def classical(scale: int) -> list[Method]:
    """Returns the methods without learning."""
    facts = {"kind": "classical"}
    return [
        Method("nearest", lambda low: low.repeat(scale, 0).repeat(scale, 1), facts),
        Method(BICUBIC, lambda low: bicubic_up(low, scale), facts),
        Method("bicubic + back-projection", lambda low: back_projected(low, scale), facts),
    ]


def of_model(model: Model) -> Method:
    """Wraps a slidesr model as a method."""
    spec, engine = model.spec, model.engine
    facts: dict[str, Any] = {
        "kind": spec.generator.architecture,
        "model": spec.name,
        "norm": spec.generator.norm,
        "stage": spec.stage,
        "sha256": model.sha256,
        "start": spec.start,
        "trained on": f"{spec.patches:,} patches",
        "loss networks": list(spec.loss_networks),
        "runs on": f"{engine.device.partition(':')[0]}, {engine.precision}",
    }
    some_have = {
        "ablates": spec.ablates or None,
        "perception": model.perception,
        "ensemble": f"{model.passes} passes" if model.ensemble else None,
        "tolerance": model.tolerance,
    }
    facts |= {name: value for name, value in some_have.items() if value is not None}
    return Method(model.label, model.enlarge, facts)


def of_third_party(network: ThirdParty) -> Method:
    """Wraps a third-party network as a method."""
    facts = {
        "kind": network.architecture,
        "sha256": network.sha256,
        "runs on": f"{network.device}, {network.precision}",
    }
    return Method(network.name, network.enlarge, facts)


def leading(methods: Sequence[Method]) -> Method:
    """Selects the method whose best and worst cases are shown: a fidelity model if possible."""
    faithful = [method for method in methods if method.facts.get("stage") == "fidelity"]
    return (faithful or list(methods))[-1]
