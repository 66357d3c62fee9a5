"""Strings that name a patient, planted all over a slide, are in nothing that slidesr writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from openslide import OpenSlide
from PIL import Image
from support.models import tiny_generator
from support.slides import pyramid, tissue

from slidesr.cli import run
from slidesr.model.weights import save_model
from slidesr.output.checkpoint import CheckpointTimer
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import Progress, upscale

PLANTED = {
    "ImageDescription": "PLANT01 Doe^Jane",
    "aperio.User": "PLANT02-4f1c",
    "aperio.Patient": "PLANT03 1947-03-08",
    "aperio.Filename": "PLANT04-H2026-0815",
    "Artist": "PLANT05 Dr. House",
    "Copyright": "PLANT06 St. Elsewhere",
    "DocumentName": "PLANT07 B26-1234",
    "HostComputer": "PLANT08-scanner-7",
    "DateTime": "1987:06:05 04:03:21",
    "Software": "PLANT09 LabelWriter",
    "XMP": "PLANT10 xmp:patient",
    "label": "PLANT11 label",
    "macro": "PLANT12 macro",
    "Experimenter": "PLANT13 Roe",
    "OME Description": "PLANT14 mastectomy",
    "OME UUID FileName": "PLANT15-sister-slide.ome.tif",
    "EXIF": "PLANT16 owner",
}
FOLDER, NAME = "PLANT17 Doe Jane", "PLANT18-0815"
IMAGE = tissue(400, 300, seed=9)


def aperio(path: Path) -> None:
    """A slide with a label and a macro image, as Aperio has it."""
    head = "Aperio Image Library v11.2.1\n400x300 [0,0 400x300] (128x128) JPEG/RGB Q=30"
    fields = {name.partition(".")[2]: PLANTED[name] for name in PLANTED if "." in name}
    told = "|".join(f"{key} = {value}" for key, value in fields.items())
    text = f"{head};{PLANTED['ImageDescription']}|{told}|MPP = 0.5|AppMag = 20"
    tags = [
        (number, "s", 0, PLANTED[name], True)
        for number, name in ((315, "Artist"), (33432, "Copyright"), (269, "DocumentName"))
    ]
    tags += [(316, "s", 0, PLANTED["HostComputer"], True)]
    xmp = PLANTED["XMP"].encode()
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            IMAGE,
            tile=(128, 128),
            photometric="rgb",
            compression="jpeg",
            description=text,
            datetime=PLANTED["DateTime"],
            software=PLANTED["Software"],
            extratags=[*tags, (700, "B", len(xmp), xmp, True)],
            metadata=None,
        )
        for kind in ("thumbnail", "label", "macro"):
            words = f"Aperio Image Library v11.2.1\n{kind} 90x80 {PLANTED.get(kind, '')}"
            tiff.write(
                IMAGE[:80, :90],
                photometric="rgb",
                compression="jpeg",
                rowsperstrip=80,
                description=words,
                subfiletype=9 if kind == "macro" else 1,
                metadata=None,
            )


def ome(path: Path) -> None:
    first, *rest = pyramid(IMAGE)
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Experimenter ID="Experimenter:0" LastName="{PLANTED["Experimenter"]}"/>'
        f'<Image ID="Image:0"><Description>{PLANTED["OME Description"]}</Description>'
        '<ExperimenterRef ID="Experimenter:0"/>'
        '<Pixels ID="Pixels:0" Type="uint8" DimensionOrder="XYCZT" SizeX="400" SizeY="300"'
        ' SizeC="3" SizeZ="1" SizeT="1" Interleaved="true" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1">'
        f'<UUID FileName="{PLANTED["OME UUID FileName"]}">urn:uuid:1</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    how: dict[str, Any] = {
        "tile": (128, 128),
        "photometric": "rgb",
        "compression": "deflate",
        "metadata": None,
    }
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(first, subifds=len(rest), description=xml.encode(), **how)
        for level in rest:
            tiff.write(level, subfiletype=1, **how)


def photograph(path: Path) -> None:
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0xA430):
        exif[tag] = PLANTED["EXIF"]
    Image.fromarray(IMAGE).save(path, exif=exif, comment=PLANTED["EXIF"])


SOURCES = {".svs": aperio, ".ome.tif": ome, ".jpg": photograph}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    (folder / FOLDER).mkdir()
    for suffix, write in SOURCES.items():
        write(folder / FOLDER / f"{NAME}{suffix}")
    spec, generator = tiny_generator(scale=4)
    save_model(folder / "tiny.safetensors", spec, generator)
    return folder


def found(content: bytes, *, names: bool = True) -> list[str]:
    """The planted strings in it, in the usual encodings; those of the path only with `names`."""
    told = [*PLANTED.values(), *([FOLDER, NAME] if names else [])]
    codes = ("utf-8", "utf-16-le", "utf-16-be")
    return [t for t, code in itertools.product(told, codes) if t.encode(code) in content]


def files_in(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_the_strings_are_there_and_readers_see_them(folder: Path) -> None:
    """Else the other tests would say nothing."""
    content = b"".join(data for _, data in files_in(folder / FOLDER))
    assert set(found(content, names=False)) == set(PLANTED.values())
    with OpenSlide(folder / FOLDER / f"{NAME}.svs") as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.properties["aperio.Patient"] == PLANTED["aperio.Patient"]
        assert {"label", "macro"} <= set(slide.associated_images)


@pytest.mark.parametrize("suffix", SOURCES)
@pytest.mark.parametrize("layout", ["hybrid", "generic"])
def test_no_planted_string_is_in_the_output_or_told(
    folder: Path, suffix: str, layout: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = folder / FOLDER / f"{NAME}{suffix}"
    options = ["--model", str(folder / "tiny.safetensors"), "--device", "cpu", "--layout", layout]
    for how in ([], ["--json"], ["--dry-run"], ["--dry-run", "--json"]):
        output = tmp_path / f"{len(how)}{''.join(how)}.ome.tif"
        assert run(["upscale", *options, *how, str(source), "-o", str(output)]) == 0
    for how in ([], ["--json"]):
        assert run(["info", *how, str(source)]) == 0
    told = capfd.readouterr()
    assert found((told.out + told.err).encode(), names=False) == []
    written = dict(files_in(tmp_path))
    assert len(written) == 2
    for path, data in written.items():
        assert found(data) == []
        with OpenSlide(path) as made:
            assert not made.associated_images


@pytest.mark.parametrize("suffix", SOURCES)
def test_no_planted_string_is_in_what_a_stopped_run_leaves(
    folder: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointTimer, "_MIN_S", 0.0)
    monkeypatch.setattr(CheckpointTimer, "_FACTOR", 0)
    source = folder / FOLDER / f"{NAME}{suffix}"
    options = Options(model=str(folder / "tiny.safetensors"), tissue="all", device="cpu")
    reports: list[Progress] = []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) > 4:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        prepared(source, tmp_path / "out.ome.tif", options) as job,
    ):
        upscale(job, stop)
    left = dict(files_in(tmp_path))
    assert {path.name for path in left} == {".out.ome.tif.part", ".out.ome.tif.part.state"}
    for data in left.values():
        assert found(data) == []


def test_the_summary_of_many_slides_holds_no_word_of_theirs(folder: Path, tmp_path: Path) -> None:
    """It holds the paths that were given, since it must tell the slides apart."""
    sources = [str(folder / FOLDER / f"{NAME}{suffix}") for suffix in (".svs", ".ome.tif")]
    options = ["--model", str(folder / "tiny.safetensors"), "--device", "cpu"]
    assert run(["upscale", *options, *sources, "-o", str(tmp_path)]) == 0
    assert found((tmp_path / "summary.json").read_bytes(), names=False) == []


def test_training_patches_hold_no_word_of_the_slide(folder: Path, tmp_path: Path) -> None:
    source = folder / FOLDER / f"{NAME}.svs"
    told = ["--size", "64", "--per-slide", "3", "--max-blur", "1", "--min-tissue", "0"]
    assert run(["patches", str(source), "-o", str(tmp_path), *told, "--split", "1,0,0"]) == 0
    patches = [data for path, data in files_in(tmp_path) if path.suffix == ".png"]
    assert patches
    assert np.all([found(data) == [] for data in patches])
    for _, data in files_in(tmp_path):
        assert found(data, names=False) == []
