"""ResNeXt-101 as the features of a classifier, from torchvision's weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from slidesr.errors import RefusedError
from slidesr.model.imagenet.normalised import Normalised
from slidesr.model.torch_files import load_data, refusing


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
    return nn.Sequential(Normalised(), network)
