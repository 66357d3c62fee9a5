"""The automatic window: a sample above it stops the work, and is never filled as damage is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.slides import tissue

from slidesr.errors import SlidesrError
from slidesr.imaging.window import Window
from slidesr.slide import open_slide


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """12 bits in 16, but for one pixel of level 0 that the coarser level does not show."""
    deep = tissue(256, 256).astype(np.uint16) * 16
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        half = deep[::2, ::2].copy()
        deep[201, 201] = 5000
        tiff.write(deep, tile=(64, 64), photometric="rgb", subifds=1, metadata={"axes": "YXS"})
        tiff.write(half, tile=(64, 64), photometric="rgb", subfiletype=1)
    return path


@pytest.mark.parametrize("fill", [False, True])
def test_a_sample_above_an_automatic_window_stops(slide: Path, *, fill: bool) -> None:
    with open_slide(slide, window="auto", fill=fill) as opened:
        assert opened.window == Window(0, 4095)
        with pytest.raises(SlidesrError, match=r"a sample of 5000 .* --window 0,16383"):
            opened.frame().read(opened.size.box)
        assert not opened.filled_tiles


def test_a_window_that_is_given_clips(slide: Path) -> None:
    with open_slide(slide, window=Window(0, 4095)) as opened:
        assert (opened.frame().read(opened.size.box)[201, 201] == 255).all()


@pytest.mark.parametrize("text", ["4095,0", "0,65536", "-1,5", "5", "a,b", ""])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|invalid literal"):
        Window.parse(text)
