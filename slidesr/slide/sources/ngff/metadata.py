"""The NGFF metadata of a group, whatever its version, and the nodes that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import zarr

Metadata: TypeAlias = Mapping[str, Any]
Array: TypeAlias = "zarr.Array[Any]"


class UnfitError(Exception):
    """The store cannot be read correctly; the message says why, without the path."""


def metadata_of(group: zarr.Group) -> Metadata:
    """What NGFF says of a group: all its attributes up to 0.4, those under `ome` from 0.5 on."""
    attributes = group.attrs.asdict()
    ome = attributes.get("ome")
    if isinstance(ome, dict):
        return {"omero": attributes.get("omero"), **ome}
    return {key: value for key, value in attributes.items() if key != "version"}


def objects(metadata: Metadata, key: str) -> list[Metadata]:
    """A list of objects; empty where it is missing. Raises UnfitError for anything else."""
    found = metadata.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UnfitError(f"its {key} is not a list of objects")
    return found


def array_at(group: zarr.Group, name: object) -> Array:
    found = _node_at(group, name)
    if not isinstance(found, zarr.Array):
        raise UnfitError(f"{name!r} is not an array")
    return found


def group_at(group: zarr.Group, name: object) -> zarr.Group:
    found = _node_at(group, name)
    if not isinstance(found, zarr.Group):
        raise UnfitError(f"{name!r} is not a group")
    return found


def _node_at(group: zarr.Group, name: object) -> Array | zarr.Group:
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
        raise UnfitError(f"a level or image at {name!r}, outside the store")
    try:
        return group[name]
    except KeyError as error:
        raise UnfitError(f"it names {name!r}, which is missing") from error
