"""Any network of torchvision or timm by its name, from weights that the user supplies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from slidesr.errors import RefusedError
from slidesr.model.imagenet.normalised import IMAGENET_MEAN, IMAGENET_STD, Normalised
from slidesr.model.torch_files import load_state, refusing

_LIBRARIES = {"torchvision": "pip install 'slidesr[benchmark]'", "timm": "pip install timm"}
_PROBES_PX = (256, 512)
_LEAST_STAGES = 3


@dataclass(frozen=True)
class Architecture:
    """A network that a library knows by name."""

    library: str  # torchvision or timm
    name: str

    @classmethod
    def find(cls, text: str) -> Architecture:
        """Finds `torchvision/NAME`, `timm/NAME`, or NAME in the first of both that has it.

        Raises RefusedError if none has it, or the named library is missing.
        """
        library, slash, name = text.rpartition("/")
        if slash and library not in _LIBRARIES:
            raise RefusedError(
                f"{text}: no network of torchvision or timm. Give torchvision/NAME or timm/NAME."
            )
        wanted = [library] if slash else [each for each in _LIBRARIES if _is_there(each)]
        for each in wanted:
            if _knows(each, name):
                return cls(each, name)
        known = " or ".join(wanted or _LIBRARIES)
        raise RefusedError(f"{text}: {known} has no network of this name. See its list of models.")


def network_stages(architecture: Architecture, weights: Path) -> nn.Module:
    """The network's maps of falling resolution, normalised as it was trained.

    timm: the maps of its `features_only`. torchvision: of each resolution the last layer that all
    of the image passes through, so none inside a block. `weights` is a state dict (torch.save or
    safetensors) with at least the layers in use. Raises RefusedError for other files, and for
    networks without maps of three resolutions, such as plain vision transformers.
    """
    build = _of_timm if architecture.library == "timm" else _of_torchvision
    name = f"{architecture.library}'s {architecture.name}"
    with (
        refusing(f"{name}: has no maps of {_LEAST_STAGES} resolutions", AssertionError),
        torch.random.fork_rng(devices=[]),  # constructors draw weights
    ):
        stages, normalise = build(architecture.name)
    with refusing(f"{weights}: not weights of {name}. Give the file of its state dict."):
        stages.load_state_dict(_chosen(stages.state_dict(), load_state(weights)))
    return _Maps(normalise, stages)


class _Maps(nn.Module):
    """Feature maps as a list, whichever way the library returns them."""

    def __init__(self, normalise: nn.Module, stages: nn.Module) -> None:
        super().__init__()
        self.normalise, self.stages = normalise, stages

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.stages(self.normalise(x))
        return list(maps.values() if isinstance(maps, Mapping) else maps)


def _is_there(library: str) -> bool:
    try:
        import_module(library)
    except ImportError:
        return False
    return True


def _knows(library: str, name: str) -> bool:
    if not _is_there(library):
        raise RefusedError(f"{library} is not installed: {_LIBRARIES[library]}")
    if library == "timm":
        known: bool = import_module("timm").is_model(name)
        return known
    models = import_module("torchvision.models")
    return name in models.list_models(module=models)


def _chosen(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in use by the names of the stages; timm joins names of modules by underscores.

    What is missing here is missed by `load_state_dict`.
    """
    by_name = {key.replace(".", "_"): value for key, value in state.items()}
    names = {key: key.replace(".", "_") for key in wanted}
    return {key: by_name[name] for key, name in names.items() if name in by_name}


def _of_timm(name: str) -> tuple[nn.Module, nn.Module]:
    library = import_module("timm")
    settings = library.get_pretrained_cfg(name)
    stages: nn.Module = library.create_model(name, features_only=True, pretrained=False).eval()
    with torch.inference_mode():
        maps = stages(torch.zeros(1, 3, 128, 128))
    _refuse_unless_falling([tuple(each.shape[2:]) for each in maps])
    return stages, Normalised(settings.mean, settings.std)


def _of_torchvision(name: str) -> tuple[nn.Module, nn.Module]:
    extraction = import_module("torchvision.models.feature_extraction")
    network = import_module("torchvision.models").get_model(name, weights=None).eval()
    _, layers = extraction.get_graph_node_names(network, suppress_diff_warning=True)
    every = _extractor(deepcopy(network).to("meta"), layers)  # shapes only
    nodes = next(node.args[0] for node in every.graph.nodes if node.op == "output")
    through = _passed_by_all(every.graph)
    small, large = (every(torch.empty(1, 3, side, side, device="meta")) for side in _PROBES_PX)
    last: dict[int, str] = {}  # log2 of the stride -> layer
    for layer in layers:
        stride = _stride(small[layer], large[layer])
        if nodes[layer] in through and stride is not None:
            last[round(math.log2(stride))] = layer
    _refuse_unless_falling([tuple(small[layer].shape[2:]) for layer in last.values()])
    stages = _extractor(network, list(last.values()))
    return stages, Normalised(IMAGENET_MEAN, IMAGENET_STD)


def _extractor(network: nn.Module, layers: Sequence[str]) -> Any:
    create = import_module("torchvision.models.feature_extraction").create_feature_extractor
    names = {"train_return_nodes": [layers[-1]], "eval_return_nodes": list(layers)}
    return create(network, **names, suppress_diff_warning=True).eval()


def _stride(small: object, large: object) -> float | None:
    """The stride of a layer from its maps of both probes; None for what does not grow with them."""
    if not isinstance(small, Tensor) or not isinstance(large, Tensor) or small.ndim != 4:
        return None
    grown = [b - a for a, b in zip(small.shape[2:], large.shape[2:], strict=True)]
    if grown[0] != grown[1] or not grown[0]:
        return None
    return (_PROBES_PX[1] - _PROBES_PX[0]) / grown[0]


def _passed_by_all(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that no path from the image to the end goes around."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    through, furthest = set(), 0
    for node, index in place.items():
        if node.op not in ("placeholder", "output") and furthest <= index:
            through.add(node)
        users = [place[user] for user in node.users if user.op != "output"]
        furthest = max([furthest, *users])
    return through


def _refuse_unless_falling(sizes: Sequence[tuple[int, ...]]) -> None:
    falling = all(high[0] > low[0] for high, low in pairwise(sizes))
    square = all(len(size) == 2 and size[0] == size[1] for size in sizes)
    if len(sizes) < _LEAST_STAGES or not (falling and square):
        raise ValueError(f"maps of {sizes}: not of falling resolution")
