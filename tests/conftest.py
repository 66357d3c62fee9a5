"""What the tests of networks, models, training and benchmark share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch import nn

from slidesr.model.stages import TrainingStage
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.nets.layers import WindowAttention

pytest.register_assert_rewrite("support")

U8 = NDArray[np.uint8]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test's run finds out about this machine is nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def section() -> U8:
    """A real stained section, u8[512, 512, 3]."""
    read: Callable[[], U8] = data.immunohistochemistry
    return read()


@pytest.fixture(scope="session")
def trained_looking() -> Callable[[GeneratorSpec], Generator]:
    """Makes generators no parameter or running statistic of which is still at its first value."""
    return _trained_looking


@pytest.fixture(scope="session")
def model_spec() -> Callable[[GeneratorSpec], ModelSpec]:
    """Makes whole headers."""
    return _model_spec


@pytest.fixture(scope="session")
def save_images() -> Callable[[Path, Mapping[str, U8]], Path]:
    """Writes images by their names inside a folder."""
    return _save_images


def _trained_looking(spec: GeneratorSpec) -> Generator:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(sum(map(ord, repr(spec))))
        generator = Generator(spec)
        for parameter in generator.parameters():
            parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
        if isinstance(generator.attention, WindowAttention):
            for layer in (generator.attention.query, generator.attention.key):
                layer.weight.mul_(4)  # far from uniform attention
            generator.attention.gamma.fill_(0.7)
        for module in generator.modules():
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.4)
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                module.running_mean = 0.3 * torch.randn_like(module.running_var)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return generator.eval()


def _model_spec(generator: GeneratorSpec) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        generator=generator,
        stage="fidelity",
        trained_um_per_px=(0.92, 2.0),
        licence="CC0",
        data={"made up": "CC0"},
        stages=(
            TrainingStage("before", {"loss": "l2"}, "", "0" * 64, 4_000, 600, "a device"),
            TrainingStage(
                "tiny",
                {"loss": "l1", "data": {"weights": {"a": 2.0}}},
                "before",
                "",  # filled in as the weights are written
                96,
                7,
                "a test",
                ("a network",),
            ),
        ),
        scores={"a": {"bicubic": {"psnr_db": 20.5, "ssim": 0.5, "ms_ssim": 0.6, "qilv": 0.1}}},
    )


def _save_images(folder: Path, images: Mapping[str, U8]) -> Path:
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """Many blocks of a small slide: of 256 source pixels, not 512."""
    from slidesr.pipeline import prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_LARGEST_TILE_PX", 256)
        yield


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every block."""
    from slidesr.output.checkpoint import CheckpointTimer

    monkeypatch.setattr(CheckpointTimer, "_MIN_S", 0.0)
    monkeypatch.setattr(CheckpointTimer, "_FACTOR", 0)
