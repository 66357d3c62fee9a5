"""ResNeXt-101 32x8d, the paper's downstream classifier; needs torchvision (an extra)."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slidesr.errors import RefusedError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as it was trained
_UNREADABLE = (OSError, EOFError, UnpicklingError, RuntimeError, ValueError, TypeError, LookupError)

_U8 = NDArray[np.uint8]
_F64 = NDArray[np.float64]


class ResNeXt:
    """The network without its last layer (Xie et al. 2017, arXiv 1611.05431)."""

    def __init__(self, weights: Path) -> None:
        """`weights` is a file saved by torch with the state of `resnext101_32x8d`, whatever its
        last layer: torchvision's of ImageNet, or one that was tuned further.

        Raises RefusedError where it is not, or torchvision is missing.
        """
        try:
            from torchvision.models import resnext101_32x8d
        except ImportError as error:
            raise RefusedError(
                "ResNeXt-101 comes from torchvision: pip install 'slidesr[benchmark]'"
            ) from error
        with torch.device("meta"):
            network = resnext101_32x8d()
        network.fc = nn.Identity()
        try:
            saved = torch.load(weights, map_location="cpu", weights_only=True)
            state = {key: value for key, value in saved.items() if not key.startswith("fc.")}
            network.load_state_dict(state, assign=True)
        except (*_UNREADABLE, AttributeError) as error:
            raise RefusedError(
                f"{weights}: no weights of ResNeXt-101 32x8d. Give a file with the state dict of"
                " torchvision.models.resnext101_32x8d, for example resnext101_32x8d-8ba56ff5.pth."
            ) from error
        self._network: nn.Module = network.requires_grad_(False).eval()

    @torch.inference_mode()
    def features(self, image: _U8) -> _F64:
        """u8[h, w, 3] -> f64[2048], means over the last map."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        embedded: Tensor = self._network((pixels - mean) / std)
        features: _F64 = embedded[0].double().numpy()
        return features
