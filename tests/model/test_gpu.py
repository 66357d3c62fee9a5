"""What holds on a GPU, where kernels depend on shapes: tiles differ by at most one grey level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.data import immunohistochemistry

from slidesr.model.device import Engine
from slidesr.model.model import load_model
from slidesr.model.weights import default_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_are_the_whole_to_one_grey_level(precision: str) -> None:
    model = load_model(default_model(4), Engine("cuda", precision, batch_size=3))
    halo, side = model.halo_px, 128
    image = np.asarray(immunohistochemistry()[: 256 + 2 * halo, : 256 + 2 * halo])  # type: ignore[no-untyped-call]
    whole = model.upscale(image[None])[0]
    starts = [(y, x) for y in (0, side) for x in (0, side)]
    tiles = [image[y : y + side + 2 * halo, x : x + side + 2 * halo] for y, x in starts]
    for (y, x), made in zip(starts, model.upscale(np.stack(tiles)), strict=True):
        part = whole[4 * y : 4 * (y + side), 4 * x : 4 * (x + side)]
        assert np.abs(made.astype(int) - part).max() <= 1


def test_a_gpu_agrees_with_a_cpu() -> None:
    image = np.asarray(immunohistochemistry()[:96, :96])  # type: ignore[no-untyped-call]
    made = [
        load_model(default_model(4), Engine(device, "fp32")).enlarge(image).astype(int)
        for device in ("cpu", "cuda")
    ]
    assert np.abs(made[0] - made[1]).max() <= 1
