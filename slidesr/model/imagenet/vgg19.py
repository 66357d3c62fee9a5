"""VGG19, from torchvision's weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from slidesr.model.imagenet.normalised import Normalised
from slidesr.model.torch_files import load_data, refusing

_VGG19_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)  # configuration E


def vgg19_features(weights: Path, *, normalised: bool, stages: bool = False) -> nn.Module:
    """VGG19 up to its last pooling (Simonyan and Zisserman 2015, arXiv 1409.1556, configuration E):
    [n, 3, h, w] in 0..1 -> one map [n, 512, h/32, w/32].

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
        self.normalise = Normalised() if normalised else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.normalise(x), []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps if self.stages else [x]
