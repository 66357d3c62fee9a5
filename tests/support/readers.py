"""The programs that are to open our slides: all levels of a file, as pixels.

Each is what its users run, in its own environment where its pins clash with ours. One that is not
here raises AbsentError, which says how to get it.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
from _pytest.outcomes import Skipped
from numpy.typing import NDArray
from PIL import Image

from slidesr.verify.readers.by_bioformats import BioFormatsReader
from slidesr.verify.readers.reader import NotInstalledError
from support.browser_driver import FLAGS

U8 = NDArray[np.uint8]
ROOT = Path(__file__).parents[2]
BROWSER = ROOT / "tests" / "browser"


class AbsentError(Skipped):
    """The program is not here, so its test is skipped; the message says how to get it."""


@dataclass(frozen=True)
class Program:
    """A reader; `levels` gives the pixels of all levels that it sees of a file."""

    name: str
    used_by: str
    levels: Callable[[Path], list[U8]]


def by_tifffile(path: Path) -> list[U8]:
    with tifffile.TiffFile(path) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


def by_openslide(path: Path) -> list[U8]:
    """Of a DICOM folder, any of its files."""
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    with openslide.OpenSlide(file) as slide:
        levels = [
            np.asarray(slide.read_region((0, 0), level, size))
            for level, size in enumerate(slide.level_dimensions)
        ]
    assert all((level[..., 3] == 255).all() for level in levels)
    return [level[..., :3] for level in levels]


def by_openslide_3(path: Path) -> list[U8]:
    """Debian's library; its openslide-write-png reads band by band, and between pixels."""
    name = ctypes.util.find_library("openslide")
    if name is None or not name.endswith(".so.0"):
        raise AbsentError("apt-get install libopenslide0")
    library = ctypes.CDLL(name)
    library.openslide_open.restype = ctypes.c_void_p
    slide = ctypes.c_void_p(library.openslide_open(str(path).encode()))
    try:
        count = library.openslide_get_level_count(slide)
        return [_openslide_3_level(library, slide, level) for level in range(count)]
    finally:
        library.openslide_close(slide)


def _openslide_3_level(library: ctypes.CDLL, slide: ctypes.c_void_p, level: int) -> U8:
    width, height = ctypes.c_int64(), ctypes.c_int64()
    library.openslide_get_level_dimensions(slide, level, ctypes.byref(width), ctypes.byref(height))
    pixels = np.empty((height.value, width.value, 4), np.uint8)  # B, G, R, alpha
    at = ctypes.c_int64(0)
    to = pixels.ctypes.data_as(ctypes.c_void_p)
    library.openslide_read_region(slide, to, at, at, level, width, height)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., 2::-1]


def by_libvips(path: Path) -> list[U8]:
    """The main chain; the SubIFDs where it has one directory only."""
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise AbsentError("pip install 'pyvips[binary]'") from error
    first = pyvips.Image.tiffload(str(path))
    fields = first.get_fields()
    pages = first.get("n-pages") if "n-pages" in fields else 1
    if pages > 1:
        rest = [pyvips.Image.tiffload(str(path), page=page) for page in range(1, pages)]
    else:
        subifds = first.get("n-subifds") if "n-subifds" in fields else 0
        rest = [pyvips.Image.tiffload(str(path), subifd=index) for index in range(subifds)]
    return [image.numpy() for image in (first, *rest)]


def by_libvips_8_14(path: Path) -> list[U8]:
    """Debian's, by its own program."""
    _needed("vips", "apt-get install libvips-tools")
    pages = int(_run("vipsheader", "-f", "n-pages", path))
    levels = []
    for page in range(pages):
        with tempfile.NamedTemporaryFile(suffix=".png") as png:
            _run("vips", "copy", f"{path}[page={page}]", png.name)
            levels.append(np.asarray(Image.open(png.name).convert("RGB")))
    return levels


def by_bio_formats(path: Path) -> list[U8]:
    try:
        reader = BioFormatsReader(path)
    except NotInstalledError as error:
        raise AbsentError(str(error)) from error
    try:
        return [reader.read(level, size.box) for level, size in enumerate(reader.facts.levels)]
    finally:
        reader.close()


def by_tiffslide(path: Path) -> list[U8]:
    try:
        from tiffslide import TiffSlide
    except ImportError as error:
        raise AbsentError("pip install tiffslide") from error
    with TiffSlide(path) as slide:
        return [
            np.asarray(slide.read_region((0, 0), level, size, as_array=True), np.uint8)
            for level, size in enumerate(slide.level_dimensions)
        ]


def by_pillow(path: Path) -> list[U8]:
    with Image.open(path) as image:
        levels = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            levels.append(np.asarray(image.convert("RGB")))
        return levels


def by_wsidicomizer(path: Path) -> list[U8]:
    try:
        from wsidicomizer import WsiDicomizer
    except ImportError as error:
        raise AbsentError("pip install wsidicomizer") from error
    with WsiDicomizer.open(path) as slide:
        return [
            np.asarray(slide.read_region((0, 0), level.level, level.size.to_tuple()))
            for level in slide.pyramids[0]
        ]


CUCIM = """
import sys
import numpy as np
from cucim import CuImage
image = CuImage(sys.argv[1])
levels = image.resolutions["level_dimensions"]
pixels = {str(i): np.asarray(image.read_region((0, 0), s, level=i)) for i, s in enumerate(levels)}
np.savez(sys.argv[2], **pixels)
"""


def by_cucim(path: Path) -> list[U8]:
    """In an environment of its own, 430 MB; a GPU is not needed."""
    python = ROOT / ".venv-cucim" / "bin" / "python"
    if not python.exists():
        raise AbsentError("make readers")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "levels.npz"
        _run(python, "-c", CUCIM, path, file)
        with np.load(file) as levels:
            return [levels[name] for name in sorted(levels.files, key=int)]


def by_geotiff(path: Path) -> list[U8]:
    with browser(path.parent) as ask:
        return [_interleaved(level) for level in ask("tiffLevels", f"/slides/{path.name}")]


def by_zarrita(path: Path) -> list[U8]:
    with browser(path.parent) as ask:
        return [_planes(level) for level in ask("zarrLevels", f"/slides/{path.name}")]


PROGRAMS = (
    Program("OpenSlide 4", "ASAP, CLAM, TRIDENT, TIAToolbox", by_openslide),
    Program("OpenSlide 3.4", "older installations", by_openslide_3),
    Program("Bio-Formats 7", "QuPath, OMERO", by_bio_formats),
    Program("tifffile", "napari, scientific Python", by_tifffile),
    Program("tiffslide", "Python, remote files", by_tiffslide),
    Program("libvips, PyPI", "pyvips, image servers", by_libvips),
    Program("libvips, Debian", "older installations", by_libvips_8_14),
    Program("Pillow", "Python", by_pillow),
    Program("wsidicomizer", "to DICOM", by_wsidicomizer),
    Program("geotiff.js", "web viewers, in Chromium", by_geotiff),
    Program("cuCIM", "MONAI", by_cucim),
)


@contextmanager
def browser(folder: Path) -> Iterator[Callable[[str, str], Any]]:
    """A page in Chromium with the readers of the web; the folder is served to it as /slides."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = _needed("chromium", "apt-get install chromium chromium-driver")
    driver = _needed("chromedriver", "apt-get install chromium chromium-driver")
    if not (BROWSER / "node_modules").is_dir():
        raise AbsentError("make readers")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with _served(folder) as address, tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        chrome = webdriver.Chrome(options, Service(driver))
        try:
            chrome.set_script_timeout(120)
            chrome.get(f"{address}/readers.html")
            yield partial(chrome.execute_async_script, _ASK)
        finally:
            chrome.quit()


_ASK = """
const [name, url, done] = arguments;
const answer = async () => {
  while (!window.ready) await new Promise((later) => setTimeout(later, 20));
  return window[name](url);
};
answer().then(done, (error) => done(String(error)));
"""


class _Files(SimpleHTTPRequestHandler):
    slides: Path

    def translate_path(self, path: str) -> str:
        inside = path.split("?")[0].removeprefix("/")
        if inside.startswith("slides/"):
            return str(self.slides / inside.removeprefix("slides/"))
        return str(BROWSER / inside)

    def log_message(self, format: str, *words: Any) -> None:
        pass


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = type("Files", (_Files,), {"slides": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _interleaved(level: dict[str, Any]) -> U8:
    samples = np.frombuffer(base64.b64decode(level["pixels"]), np.uint8)
    return samples.reshape(level["height"], level["width"], 3)


def _planes(level: dict[str, Any]) -> U8:
    samples = np.frombuffer(base64.b64decode(level["pixels"]), np.uint8)
    return samples.reshape(3, level["height"], level["width"]).transpose(1, 2, 0)


def _needed(program: str, how: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise AbsentError(how)
    return found


def _run(*command: object) -> str:
    words = [str(each) for each in command]
    return subprocess.run(words, check=True, timeout=300, capture_output=True, text=True).stdout
