"""The main job: a slide in, an upscaled slide out; or many, one after the other."""

from slidesr.upscale.job import Job, open_model, prepared
from slidesr.upscale.options import Options
from slidesr.upscale.recipe import Recipe
from slidesr.upscale.run import Made, Maker, Progress, Summary, estimate, upscale

__all__ = [
    "Job",
    "Made",
    "Maker",
    "Options",
    "Progress",
    "Recipe",
    "Summary",
    "estimate",
    "open_model",
    "prepared",
    "upscale",
]
