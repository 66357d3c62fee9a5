"""Finds the slides among the user's paths, and the annotation of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from slidesr.errors import RefusedError
from slidesr.runtime.paths import is_store
from slidesr.slide.folders import SLIDE_SUFFIXES, is_one_slide, slides_below, stem_of

_MAX_PATCH_PX = 4096
_ANNOTATIONS = (".xml", ".geojson", ".json", ".xml.gz", ".geojson.gz", ".json.gz")


@dataclass(frozen=True)
class Material:
    """A slide, and the file of its lesions, if any."""

    slide: Path
    annotation: Path | None

    @property
    def name(self) -> str:
        return stem_of(self.slide)


def find_material(paths: Iterable[Path], annotations: Path | None = None) -> list[Material]:
    """The slides among files and folders, by name, each with the annotation of the same name.

    Annotations are searched in the folder `annotations`, by default beside the slide; for a single
    slide `annotations` may be a file. Raises RefusedError where two slides share a name.
    """
    found = {path.resolve(): path for given in paths for path in _slides(given)}
    slides = sorted(found.values(), key=stem_of)
    name, count = Counter(map(stem_of, slides)).most_common(1)[0]
    if count > 1:
        raise RefusedError(f"{count} slides are called {name}. Give them different names.")
    if annotations is not None:
        return _annotated(slides, annotations)
    return [Material(slide, _annotation(slide, slide.parent)) for slide in slides]


def are_slides(path: Path) -> bool:
    """Whether a file, or a file in a folder, is a whole slide rather than a plain image.

    A TIFF is a slide if it has several pages or a side of over 4,096 px.
    """
    if is_store(path):
        return True
    if path.is_dir():
        return any(are_slides(each) for each in sorted(path.rglob("*")) if each.is_file())
    if path.suffix.lower() in (".tif", ".tiff") and path.is_file():
        with suppress(OSError, ValueError), Image.open(path, formats=["TIFF"]) as image:
            return getattr(image, "n_frames", 1) > 1 or max(image.size) > _MAX_PATCH_PX
    return path.name.lower().endswith(SLIDE_SUFFIXES)


def _annotated(slides: Sequence[Path], annotations: Path) -> list[Material]:
    if not annotations.is_dir():
        if len(slides) > 1:
            raise RefusedError(f"{annotations}: is not a folder, which {len(slides)} slides need")
        return [Material(slides[0], annotations)]
    material = [Material(slide, _annotation(slide, annotations)) for slide in slides]
    if not any(item.annotation for item in material):
        raise RefusedError(
            f"{annotations}: holds no annotation of any slide, such as {material[0].name}.xml"
        )
    return material


def _slides(given: Path) -> list[Path]:
    if not (given.exists() or is_store(given)):
        raise RefusedError(f"{given}: no such file or folder")
    if is_one_slide(given):
        return [given]
    slides = list(slides_below(given))
    if not slides:
        raise RefusedError(f"{given}: no slides here ({', '.join(SLIDE_SUFFIXES)})")
    return slides


def _annotation(slide: Path, folder: Path) -> Path | None:
    paths = [folder / f"{stem_of(slide)}{suffix}" for suffix in _ANNOTATIONS]
    files = [path for path in paths if path.is_file()]
    if len(files) > 1:
        raise RefusedError(f"{files[0]}: there is {files[1].name} too. Keep one of them.")
    return files[0] if files else None
