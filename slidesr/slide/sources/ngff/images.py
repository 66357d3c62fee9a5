"""Which images a store has, which of them is the slide, and which are left out.

They are those of the group itself, or of the numbered groups of bioformats2raw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from zipfile import ZipFile

import zarr

from slidesr.errors import printable
from slidesr.runtime.paths import is_remote
from slidesr.runtime.untrusted_xml import XMLError, xml_root
from slidesr.slide.sources.ngff.metadata import Metadata, UnfitError, group_at, metadata_of, objects
from slidesr.slide.sources.ngff.multiscale import Multiscale, open_multiscale
from slidesr.slide.sources.source import Candidate, Choice, refuse_tie, warn_of_left_out

_MOST_IMAGES = 256
_MOST_XML_BYTES = 1 << 24  # of a slide's OME-XML; kilobytes are usual
_XML = "OME/METADATA.ome.xml"


@dataclass(frozen=True)
class Chosen:
    """The image that is the slide, the group that holds it, the group's metadata, and why."""

    image: Multiscale
    group: zarr.Group
    metadata: Metadata
    choice: Choice


def choose_image(path: Path, root: zarr.Group) -> Chosen:
    """The image of a store, the largest of several. Raises UnfitError where none is a slide."""
    metadata = metadata_of(root)
    if "multiscales" in metadata:
        return _first(root, metadata)
    if "plate" in metadata:
        raise UnfitError(
            "it is a plate of wells. Give one of its images: the folder of a field, such as A/1/0"
        )
    if "well" in metadata:
        raise UnfitError(
            "it is a well of a plate. Give one of its images: the folder of a field, such as 0"
        )
    if "labels" in metadata:
        raise UnfitError("it is a list of label images, not a picture. Give the folder above it")
    if "bioformats2raw.layout" in metadata:
        return _largest(path, root)
    raise UnfitError("it has no multiscales, so it is no image of OME-Zarr. Give an image's folder")


def _first(group: zarr.Group, metadata: Metadata) -> Chosen:
    images = objects(metadata, "multiscales")
    if not images:
        raise UnfitError("its list of images (multiscales) is empty")
    names = [_text(each.get("name")) or f"multiscale {at}" for at, each in enumerate(images)]
    why = "the only image" if len(images) == 1 else f"the first of {len(images)} multiscales"
    choice = Choice(_text(images[0].get("name")), why, left_out=tuple(names[1:]))
    return Chosen(open_multiscale(group, metadata, images[0]), group, metadata, choice)


def _largest(path: Path, root: zarr.Group) -> Chosen:
    """The largest of the images whose name is not that of a label, a macro or a thumbnail.

    Warns where it leaves out another.
    """
    images = {name: _numbered(root, name) for name in _image_names(path, root)}
    if not images:
        raise UnfitError("it has the layout of bioformats2raw, but no image")
    names = _shown(images, _titles(path))
    candidates = {
        at: Candidate(names[at], each.image.sizes[0], names[at]) for at, each in images.items()
    }
    first, *rest = sorted(images, key=lambda at: candidates[at].rank, reverse=True)
    best, others = candidates[first], [candidates[at] for at in rest]
    refuse_tie(path, best, others, "Give the folder of one")
    warn_of_left_out(path, best, others)
    image = images[first]
    why = f"the largest of {len(images)} images" if others else "the only image"
    left_out = (f"{other.title}, {other.size} px" for other in others)
    choice = Choice(best.title, why, left_out=(*left_out, *image.choice.left_out))
    return replace(image, choice=choice)


def _numbered(root: zarr.Group, name: str) -> Chosen:
    try:
        group = group_at(root, name)
        return _first(group, metadata_of(group))
    except UnfitError as error:  # it might be the slide, so none is chosen without it
        raise UnfitError(f"its image {printable(name)}: {error}") from error


def _image_names(path: Path, root: zarr.Group) -> list[str]:
    """The groups of the images: those that the group OME lists, or all with a number."""
    ome = root.get("OME")
    series = metadata_of(ome).get("series") if isinstance(ome, zarr.Group) else None
    if isinstance(series, list):
        names = list(dict.fromkeys(map(str, series)))
    elif is_remote(path):  # which cannot always be listed
        names = list(takewhile(root.__contains__, map(str, range(_MOST_IMAGES + 1))))
    else:
        names = sorted((name for name in root.group_keys() if name.isdecimal()), key=int)
    if len(names) > _MOST_IMAGES:
        raise UnfitError(f"it has {len(names)} images. Give the folder of one of them")
    return names


def _shown(images: Mapping[str, Chosen], titles: list[str]) -> dict[str, str]:
    """The images' names in OME-XML, if it lists as many, each with that of its group."""
    if len(titles) != len(images):
        titles = [each.choice.image for each in images.values()]
    pairs = zip(images, titles, strict=True)
    return {name: f"{title} ({name})" if title not in ("", name) else name for name, title in pairs}


def _titles(path: Path) -> list[str]:
    """The images' names in the OME-XML of bioformats2raw; empty if there is none to be read."""
    text = _xml(path)
    if text is None:
        return []
    try:
        root = xml_root(text)
    except XMLError:
        return []
    return [_text(image.get("Name")) for image in root.findall("{*}Image")]


def _xml(path: Path) -> bytes | None:
    if path.is_dir():
        file = path / _XML
        is_small = file.is_file() and file.stat().st_size <= _MOST_XML_BYTES
        return file.read_bytes() if is_small else None
    if not path.is_file():
        return None
    with ZipFile(path) as archive:
        entry = archive.NameToInfo.get(_XML)
        is_small = entry is not None and entry.file_size <= _MOST_XML_BYTES
        return archive.read(_XML) if is_small else None


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
