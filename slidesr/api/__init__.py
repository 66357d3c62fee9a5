"""The public Python API: what `slidesr` on the command line does, as functions.

Import the names from `slidesr` itself, which loads them when they are first used.
"""

from slidesr.api.slides import (
    Estimate,
    convert,
    estimate,
    find_tissue,
    list_models,
    load_model,
    open_slide,
    profile,
    upscale,
    upscale_many,
)
from slidesr.imaging import metrics

__all__ = [
    "Estimate",
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
