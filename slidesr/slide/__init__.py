"""Reads whole slides: OpenSlide's formats, TIFF, OME-Zarr and plain images behind one type."""

from slidesr.slide._frame import Frame
from slidesr.slide._slide import Slide, open_slide
from slidesr.slide.sources.source import Choice, Level

__all__ = ["Choice", "Frame", "Level", "Slide", "open_slide"]
