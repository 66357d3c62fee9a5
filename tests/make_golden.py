"""Makes the golden tile of each shipped model: to be run once, when its weights are final."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from support.models import golden_input

from slidesr.model.model import load_model
from slidesr.model.weights import list_models

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    read: Callable[[], NDArray[np.uint8]] = data.immunohistochemistry
    section = read()
    GOLDEN.mkdir(exist_ok=True)
    for path, _ in list_models():
        model = load_model(path.stem)
        low = golden_input(section, model.scale)
        Image.fromarray(model.enlarge(low)).save(GOLDEN / f"{path.stem}.png", optimize=True)


if __name__ == "__main__":
    main()
