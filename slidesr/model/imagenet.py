"""Networks trained on ImageNet, loaded from torchvision weights that the user supplies."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from slidesr.errors import RefusedError
from slidesr.model.torch_files import load_data, refusing

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_VGG19_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)  # configuration E


def vgg19_features(weights: Path, *, normalised: bool, stages: bool = False) -> nn.Module:
    """VGG19 up to its last pooling (Simonyan and Zisserman 2015, arXiv 1409.1556, configuration E):
    [n, 3, h, w] in 0..1 -> one map [n, 512, h/32, w/32], for `losses.PerceptualLoss`.

    With `stages` it returns five maps instead, the inputs of the poolings, as LPIPS does with
    VGG16. `weights` is a state dict of torchvision's `vgg19`; its classifier is ignored.
    `normalised` applies ImageNet's normalisation, with which the network was trained; the code
    published with WA-SRGAN does not. Raises RefusedError for any other file.
    """
    network = _Vgg19(normalised=normalised, stages=stages)
    with refusing(
        f"{weights}: not VGG19 weights. Give a file with the state dict of"
        " torchvision.models.vgg19, for example vgg19-dcbb9e9d.pth."
    ):
        saved = load_data(weights)
        state = {key: value for key, value in saved.items() if key.startswith("features.")}
        network.load_state_dict(state)
    return network


def resnext101_features(weights: Path) -> nn.Module:
    """ResNeXt-101 32x8d without its last layer (Xie et al. 2017, arXiv 1611.05431):
    [n, 3, h, w] in 0..1 -> [n, 2048], spatial means of the last map.

    `weights` is a state dict of torchvision's `resnext101_32x8d`, from ImageNet or fine-tuned; its
    last layer is ignored. Raises RefusedError for any other file, or if torchvision is missing.
    """
    try:
        from torchvision.models import resnext101_32x8d
    except ImportError as error:
        raise RefusedError(
            "ResNeXt-101 needs torchvision: pip install 'slidesr[benchmark]'"
        ) from error
    with torch.device("meta"):
        network = resnext101_32x8d()
    network.fc = nn.Identity()
    with refusing(
        f"{weights}: not ResNeXt-101 32x8d weights. Give a file with the state dict of"
        " torchvision.models.resnext101_32x8d, for example resnext101_32x8d-8ba56ff5.pth."
    ):
        saved = load_data(weights)
        state = {key: value for key, value in saved.items() if not key.startswith("fc.")}
        network.load_state_dict(state, assign=True)
    return nn.Sequential(_Normalised(_MEAN, _STD), network)


class _Normalised(nn.Module):
    """Normalises an image by a mean colour and standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class _Vgg19(nn.Module):
    """VGG19's convolutions, numbered as in torchvision so that its weights load."""

    def __init__(self, *, normalised: bool, stages: bool) -> None:
        super().__init__()
        self.stages = stages
        layers: list[nn.Module] = []
        channels = 3
        for widths in _VGG19_WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.normalise = _Normalised(_MEAN, _STD) if normalised else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.normalise(x), []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps if self.stages else [x]
