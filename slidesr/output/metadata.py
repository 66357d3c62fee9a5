"""Metadata of an output: pixel size, magnification, ICC profile and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ome_types import OME, to_xml
from ome_types.model import (
    AnnotationRef,
    Channel,
    Image,
    Instrument,
    InstrumentRef,
    Map,
    MapAnnotation,
    Objective,
    ObjectiveSettings,
    Pixels,
    Pixels_DimensionOrder,
    PixelType,
    StructuredAnnotations,
    TiffData,
)

from slidesr.geometry import Mpp, Size


@dataclass(frozen=True)
class Metadata:
    """The metadata of an output's level 0; nothing else is copied from the slide.

    `provenance` holds key-value pairs, never a file path, host name, person or date.
    """

    mpp: Mpp | None
    magnification: float | None
    icc_profile: bytes | None
    provenance: dict[str, str] = field(default_factory=dict)

    def noting(self, notes: Mapping[str, str]) -> Metadata:
        """The same with `notes` added to the provenance."""
        return replace(self, provenance={**self.provenance, **notes})


def ome_xml(size: Size, metadata: Metadata) -> str:
    """OME-XML of one interleaved 8-bit RGB image (schema 2016-06)."""
    image = Image(id="Image:0", name="slidesr", pixels=_pixels(size, metadata.mpp))
    ome = OME(images=[image], creator="slidesr")
    if metadata.magnification is not None:
        objective = Objective(id="Objective:0:0", nominal_magnification=metadata.magnification)
        ome.instruments = [Instrument(id="Instrument:0", objectives=[objective])]
        image.instrument_ref = InstrumentRef(id="Instrument:0")
        image.objective_settings = ObjectiveSettings(id="Objective:0:0")
    if metadata.provenance:
        note = MapAnnotation(
            id="Annotation:0",
            namespace="slidesr.provenance",
            value=Map(ms=[Map.M(k=key, value=value) for key, value in metadata.provenance.items()]),
        )
        ome.structured_annotations = StructuredAnnotations(map_annotations=[note])
        image.annotation_refs = [AnnotationRef(id=note.id)]
    # Written as UTF-8: Bio-Formats 7 reads the numeric reference of the micro sign as no unit.
    return f'<?xml version="1.0" encoding="UTF-8"?>{to_xml(ome, exclude_unset=True, indent=0)}'


def plain_text(size: Size, metadata: Metadata) -> str:
    """The description of a TIFF without OME-XML: `slidesr WIDTHxHEIGHT|key = value|...`."""
    facts = {"MPP": f"{metadata.mpp.x:g} x {metadata.mpp.y:g}"} if metadata.mpp else {}
    if metadata.magnification:
        facts["Magnification"] = f"{metadata.magnification:g}"
    pairs = [f"{key} = {value}" for key, value in (facts | metadata.provenance).items()]
    text = "|".join([f"slidesr {size.width}x{size.height}", *pairs])
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _pixels(size: Size, mpp: Mpp | None) -> Pixels:
    # No pixel size means no PhysicalSize attributes at all: absent, never wrong.
    physical: dict[str, Any] = {}
    if mpp is not None:
        physical = {
            "physical_size_x": mpp.x,
            "physical_size_x_unit": "µm",
            "physical_size_y": mpp.y,
            "physical_size_y_unit": "µm",
        }
    return Pixels(
        id="Pixels:0",
        dimension_order=Pixels_DimensionOrder.XYCZT,
        type=PixelType.UINT8,
        interleaved=True,
        size_x=size.width,
        size_y=size.height,
        size_c=3,
        size_z=1,
        size_t=1,
        channels=[Channel(id="Channel:0:0", samples_per_pixel=3)],
        tiff_data_blocks=[TiffData(ifd=0, plane_count=1)],
        **physical,
    )
