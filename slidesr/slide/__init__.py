"""Reads whole slides: one door to OpenSlide, TIFF, OME-Zarr and plain images."""

from slidesr.slide._frame import Frame
from slidesr.slide._slide import Slide, open_slide
from slidesr.slide._source import Level

__all__ = ["Frame", "Level", "Slide", "open_slide"]
