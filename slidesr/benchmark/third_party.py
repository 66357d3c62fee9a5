"""Third-party super-resolution networks for comparison, loaded by spandrel (an extra)."""

from __future__ import annotations

from pathlib import Path

import torch

from slidesr.errors import RefusedError
from slidesr.geometry import Pixels
from slidesr.model.device import Engine
from slidesr.model.torch_files import load_data, refusing
from slidesr.model.weights import sha256_of
from slidesr.nets.layers import as_pixels, as_tensor

_SUFFIXES = (".pth", ".safetensors")  # other files may hold code
_MAX_BYTES = 1 << 30


class ThirdParty:
    """A network supported by spandrel, such as Real-ESRGAN, SwinIR, HAT or DAT."""

    def __init__(self, path: Path, engine: Engine) -> None:
        """Raises RefusedError if spandrel is missing or does not support the file."""
        try:
            import spandrel
        except ImportError as error:
            raise RefusedError(
                f"{path}: not a model of slidesr; those of others are opened by spandrel:"
                " pip install 'slidesr[benchmark]'"
            ) from error
        unknown = f"{path}: spandrel finds no network that it knows in it"
        with refusing(unknown, spandrel.UnsupportedModelError):
            network = spandrel.ModelLoader("cpu").load_from_state_dict(_state(path))
        channels = (network.input_channels, network.output_channels)
        if not isinstance(network, spandrel.ImageModelDescriptor) or channels != (3, 3):
            raise RefusedError(f"{path}: {network.architecture.name}, does not turn RGB into RGB")
        bf16 = engine.precision == "bf16" and network.supports_bfloat16
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._network = network.to(torch.device(engine.device), self._dtype).eval()
        self.name, self.sha256 = path.stem, sha256_of(path)
        self.scale, self.architecture = int(network.scale), str(network.architecture.name)
        self.device, self.precision = engine.device, "bf16" if bf16 else "fp32"

    @torch.inference_mode()
    def enlarge(self, image: Pixels) -> Pixels:
        """A whole image at once: u8[h, w, 3] -> u8[h*scale, w*scale, 3]."""
        low = as_tensor(image).to(self._network.device, self._dtype)
        return as_pixels(self._network(low))


def _state(path: Path) -> dict[str, torch.Tensor]:
    import spandrel

    if path.suffix not in _SUFFIXES or path.stat().st_size > _MAX_BYTES:
        suffixes = " or ".join(_SUFFIXES)
        raise RefusedError(f"{path}: give a {suffixes} file of at most {_MAX_BYTES >> 20} MiB")
    state: dict[str, torch.Tensor]
    if path.suffix == ".safetensors":
        state = spandrel.ModelLoader("cpu").load_state_dict_from_file(path)
    else:
        state = spandrel.canonicalize_state_dict(load_data(path))
    return state
