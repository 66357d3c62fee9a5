"""Which image of a file OpenSlide's reader takes, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import openslide
import pytest
from support.slides import camelyon_style, tissue

from slidesr.slide import open_slide

SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"


@pytest.mark.skipif(not SLIDES.is_dir(), reason="no real slides beside the checkout")
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "openslide_boxes_0.dcm"])
def test_label_and_overview_are_told_of_and_not_read(name: str) -> None:
    with openslide.OpenSlide(SLIDES / name) as slide:
        images = slide.associated_images
        wanted = {f"{each} ({image.width} x {image.height})" for each, image in images.items()}
    with open_slide(SLIDES / name) as opened:
        assert opened.choice.why == "the slide that OpenSlide finds"
        assert set(opened.choice.left_out) == wanted
        assert wanted or name.endswith(".dcm")


def test_a_file_of_one_image_leaves_nothing_out(tmp_path: Path) -> None:
    camelyon_style(tmp_path / "a.tif", tissue(200, 150), mpp=0.5, tile=64)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.choice.left_out == ()
