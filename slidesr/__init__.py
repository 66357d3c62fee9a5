"""Super-resolution of whole pathology slides with WA-SRGAN: a slide in, a slide out.

Names are loaded when they are first used, so that `import slidesr` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidesr.api import (
        Estimate,
        convert,
        estimate,
        find_tissue,
        list_models,
        load_model,
        metrics,
        open_slide,
        profile,
        upscale,
        upscale_many,
    )
    from slidesr.errors import BusyError, RefusedError, SlidesrError, StoppedError
    from slidesr.geometry import Box, Mpp, Size
    from slidesr.imaging.window import Window
    from slidesr.model.model import Model
    from slidesr.model.weights import ModelSpec
    from slidesr.output.compression import Compression
    from slidesr.output.format import Format
    from slidesr.pipeline.batch import SlideOutcome
    from slidesr.pipeline.options import Options
    from slidesr.pipeline.run import Progress, Summary
    from slidesr.regions.tissue_mask import Tissue
    from slidesr.slide import Slide

__version__ = "0.1.0"

_MODULES = {
    "slidesr.api": "Estimate convert estimate find_tissue list_models load_model metrics open_slide"
    " profile upscale upscale_many",
    "slidesr.errors": "BusyError RefusedError SlidesrError StoppedError",
    "slidesr.geometry": "Box Mpp Size",
    "slidesr.imaging.window": "Window",
    "slidesr.model.model": "Model",
    "slidesr.model.weights": "ModelSpec",
    "slidesr.output.compression": "Compression",
    "slidesr.output.format": "Format",
    "slidesr.pipeline.batch": "SlideOutcome",
    "slidesr.pipeline.options": "Options",
    "slidesr.pipeline.run": "Progress Summary",
    "slidesr.regions.tissue_mask": "Tissue",
    "slidesr.slide": "Slide",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "Box",
    "BusyError",
    "Compression",
    "Estimate",
    "Format",
    "Model",
    "ModelSpec",
    "Mpp",
    "Options",
    "Progress",
    "RefusedError",
    "Size",
    "Slide",
    "SlideOutcome",
    "SlidesrError",
    "StoppedError",
    "Summary",
    "Tissue",
    "Window",
    "convert",
    "estimate",
    "find_tissue",
    "list_models",
    "load_model",
    "metrics",
    "open_slide",
    "profile",
    "upscale",
    "upscale_many",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
