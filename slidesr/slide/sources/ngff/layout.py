"""Finds the image in a store: in the group itself, or in the numbered groups of bioformats2raw."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from zipfile import ZipFile

import zarr

from slidesr.errors import printable
from slidesr.runtime.paths import is_remote
from slidesr.runtime.untrusted_xml import XMLError, xml_root
from slidesr.slide.sources.ngff.multiscale import Multiscale, open_multiscale
from slidesr.slide.sources.ngff.words import UnfitError, Words, group_at, objects, words_of
from slidesr.slide.sources.source import Choice, associated_kind

_log = logging.getLogger(__name__)
_MOST_IMAGES = 256
_MOST_XML_BYTES = 1 << 24  # of a slide's OME-XML; kilobytes are usual
_XML = "OME/METADATA.ome.xml"


@dataclass(frozen=True)
class Found:
    """The image that is read, the group that holds it, and what that group says."""

    image: Multiscale
    group: zarr.Group
    words: Words
    choice: Choice


def find_image(path: Path, root: zarr.Group) -> Found:
    """The image of a store, the largest of several. Raises UnfitError where none is right."""
    words = words_of(root)
    if "multiscales" in words:
        return _first(root, words)
    if "plate" in words:
        raise UnfitError(
            "it is a plate of wells. Give one of its images: the folder of a field, such as A/1/0"
        )
    if "well" in words:
        raise UnfitError(
            "it is a well of a plate. Give one of its images: the folder of a field, such as 0"
        )
    if "labels" in words:
        raise UnfitError("it is a list of label images, not a picture. Give the folder above it")
    if "bioformats2raw.layout" in words:
        return _largest(path, root)
    raise UnfitError("it has no multiscales, so it is no image of OME-Zarr. Give an image's folder")


def _first(group: zarr.Group, words: Words) -> Found:
    images = objects(words, "multiscales")
    if not images:
        raise UnfitError("its list of images (multiscales) is empty")
    names = [_text(each.get("name")) or f"multiscale {at}" for at, each in enumerate(images)]
    why = "the only image" if len(images) == 1 else f"the first of {len(images)} multiscales"
    choice = Choice(_text(images[0].get("name")), why, left_out=tuple(names[1:]))
    return Found(open_multiscale(group, words, images[0]), group, words, choice)


def _largest(path: Path, root: zarr.Group) -> Found:
    """The largest of the images whose name is not that of a label, a macro or a thumbnail.

    Warns where it leaves out another.
    """
    found = {name: _numbered(root, name) for name in _image_names(path, root)}
    if not found:
        raise UnfitError("it has the layout of bioformats2raw, but no image")
    titles = _shown(found, _titles(path))
    besides = {name for name in found if associated_kind(titles[name])}
    areas = {name: each.image.sizes[0].area for name, each in found.items()}
    ranks = {name: (name not in besides, areas[name]) for name in found}
    best = [name for name in found if ranks[name] == max(ranks.values())]
    if len(best) > 1:
        raise UnfitError(f"its images {' and '.join(best)} are equally large. Give one's folder")
    others = [name for name in found if name != best[0]]
    for name in others:
        if name not in besides:
            _log.warning(
                "%s: holds several images; the largest is read, not %s", path.name, titles[name]
            )
    one = found[best[0]]
    why = f"the largest of {len(found)} images" if others else "the only image"
    left_out = (f"{titles[name]}, {found[name].image.sizes[0]} px" for name in others)
    choice = Choice(titles[best[0]], why, (), (*left_out, *one.choice.left_out))
    return Found(one.image, one.group, one.words, choice)


def _numbered(root: zarr.Group, name: str) -> Found:
    try:
        group = group_at(root, name)
        return _first(group, words_of(group))
    except UnfitError as error:  # it may be the slide: none is chosen without it
        raise UnfitError(f"its image {printable(name)}: {error}") from error


def _image_names(path: Path, root: zarr.Group) -> list[str]:
    """The groups of the images: those that the group OME lists, or all with a number."""
    ome = root.get("OME")
    series = words_of(ome).get("series") if isinstance(ome, zarr.Group) else None
    if isinstance(series, list):
        names = list(dict.fromkeys(map(str, series)))
    elif is_remote(path):  # which cannot always be listed
        names = list(takewhile(root.__contains__, map(str, range(_MOST_IMAGES + 1))))
    else:
        names = sorted((name for name in root.group_keys() if name.isdecimal()), key=int)
    if len(names) > _MOST_IMAGES:
        raise UnfitError(f"it has {len(names)} images. Give the folder of one of them")
    return names


def _shown(found: Mapping[str, Found], titles: list[str]) -> dict[str, str]:
    """The images' names in OME-XML, if it lists as many, each with that of its group."""
    if len(titles) != len(found):
        titles = [each.choice.image for each in found.values()]
    pairs = zip(found, titles, strict=True)
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
