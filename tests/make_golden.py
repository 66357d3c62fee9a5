"""Makes the golden tile of each shipped model: to be run once, when its weights are final."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from slidesr.model import list_models, load_model

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    read: Callable[[], NDArray[np.uint8]] = data.immunohistochemistry
    tile = read()[200:248, 300:348]
    GOLDEN.mkdir(exist_ok=True)
    for path, _ in list_models():
        Image.fromarray(load_model(path.stem).enlarge(tile)).save(GOLDEN / f"{path.stem}.png")


if __name__ == "__main__":
    main()
