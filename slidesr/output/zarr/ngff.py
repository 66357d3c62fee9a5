"""The metadata of an OME-Zarr: NGFF 0.4 or 0.5, plus what common readers need."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from slidesr.output.metadata import Metadata

AXES = ("c", "y", "x")


def zarr_format(version: str) -> Literal[2, 3]:
    """The format of Zarr that an NGFF version is stored in."""
    return 2 if version == "0.4" else 3


def group_attributes(version: str, metadata: Metadata, levels: int) -> dict[str, Any]:
    """The attributes of the group: multiscales, omero, and our own under `slidesr`.

    https://ngff.openmicroscopy.org/0.4 and /0.5. Exactly three axes, and channels named and
    coloured as below, make QuPath, napari and TRIDENT see RGB.
    """
    unit = {"unit": "micrometer"} if metadata.mpp else {}
    space = [{"name": name, "type": "space", **unit} for name in "yx"]
    multiscale = {
        "name": "slidesr",
        "axes": [{"name": "c", "type": "channel"}, *space],
        "datasets": [_dataset(metadata, level) for level in range(levels)],
        "type": "mean",
    }
    ours = {"slidesr": _ours(metadata)}
    if version == "0.4":
        multiscales = [{"version": "0.4", **multiscale}]
        # TIAToolbox reads the axes from the group's own copy
        return {"multiscales": multiscales, "omero": _omero(), "_ARRAY_DIMENSIONS": AXES, **ours}
    return {"ome": {"version": "0.5", "multiscales": [multiscale], "omero": _omero()}, **ours}


def _dataset(metadata: Metadata, level: int) -> dict[str, Any]:
    y, x = (metadata.mpp.y, metadata.mpp.x) if metadata.mpp else (1.0, 1.0)
    scale = [1.0, y * 2**level, x * 2**level]
    return {
        "path": str(level),
        "coordinateTransformations": [{"type": "scale", "scale": scale}],
    }


def _omero() -> dict[str, Any]:
    colours = {"Red": "FF0000", "Green": "00FF00", "Blue": "0000FF"}
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": colour, "window": window, "active": True}
        for label, colour in colours.items()
    ]
    return {"name": "slidesr", "channels": channels, "rdefs": {"model": "color"}}


def _ours(metadata: Metadata) -> dict[str, Any]:
    """What NGFF cannot express; `slide` reads it back."""
    own: dict[str, Any] = {"provenance": metadata.provenance}
    if metadata.magnification is not None:
        own["magnification"] = metadata.magnification
    if metadata.icc_profile is not None:
        own["icc_profile"] = base64.b64encode(metadata.icc_profile).decode()
    return own
