"""Weights between fidelity and perception (Wang et al. 2018, ESRGAN, arXiv 1809.00219, 3.4)."""

from __future__ import annotations

from pathlib import Path

from slidesr.errors import RefusedError
from slidesr.model.weights import ModelSpec, read_model, sha256_of
from slidesr.nets.generator import Generator


def blended(
    path: Path, spec: ModelSpec, generator: Generator, perception: float
) -> tuple[Generator, str]:
    """The weights between NAME-fidelity, stored beside NAME, at 0 and NAME at 1; both hashes.

    Raises RefusedError where there is no such file, or it holds another network.
    """
    if not 0 <= perception <= 1:
        raise RefusedError(f"perception {perception} is not within 0..1")
    other = path.with_stem(f"{path.stem}-fidelity")
    if not other.is_file():
        raise RefusedError(f"{path}: perception needs {other.name} in the same folder")
    fidelity_spec, fidelity = read_model(other)
    if fidelity_spec.generator != spec.generator:
        raise RefusedError(f"{other}: not the network of {path.name}: {fidelity_spec.generator}")
    sources = f"{sha256_of(other)} {sha256_of(path)}"
    return _between(fidelity, generator, perception), sources


def _between(first: Generator, second: Generator, share: float) -> Generator:
    """Interpolates the weights: the first generator at share 0, the second at 1."""
    theirs = second.state_dict()
    state = {
        name: tensor.lerp(theirs[name], share) if tensor.is_floating_point() else theirs[name]
        for name, tensor in first.state_dict().items()
    }
    blend = Generator(first.spec)
    blend.load_state_dict(state)
    return blend.eval()
