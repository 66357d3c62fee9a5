"""An image as the blocks of an output, and its OME-TIFF, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

from slidesr.geometry import Box, Mpp
from slidesr.output.compression import Compression
from slidesr.output.metadata import Metadata
from slidesr.output.ome_tiff import OmeTiffWriter
from slidesr.output.pyramid import EncodedTile, UpperPyramid, UpscaledBlock, encode_block
from slidesr.output.staging import Target
from slidesr.output.writer import SlideWriter
from slidesr.tiling import Block, TilePlan
from support.slides import tissue

U8 = NDArray[np.uint8]

GLASS = (243, 240, 238)
MPP = Mpp(0.12345, 0.25)
ICC_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROVENANCE = {"synthetic": "true", "scale": "4", "notice": "Röntgen < µm & co"}
METADATA = Metadata(MPP, 160.0, ICC_PROFILE, PROVENANCE)


@dataclass(frozen=True)
class Sheet:
    """Pixels and how they are to be written."""

    image: U8
    compression: Compression = Compression("none")  # noqa: RUF009
    layout: str = "hybrid"
    tile_px: int = 64
    metadata: Metadata = METADATA

    @property
    def plan(self) -> TilePlan:
        height, width = self.image.shape[:2]
        region = Box(0, 0, width, height)
        return TilePlan(region, 1, 8, output_tile_px=self.tile_px, block_doublings=1)

    def writer(self, path: Path, *, overwrite: bool = False) -> OmeTiffWriter:
        target = Target(path, self.plan, self.metadata, GLASS, overwrite)
        return OmeTiffWriter(target, self.compression, self.layout)

    def painted(self) -> Iterator[UpscaledBlock]:
        yield from map(self._painted, self.plan.blocks())

    def tiles(self) -> Iterator[EncodedTile[bytes]]:
        plan, encode = self.plan, self.compression.encode
        upper = UpperPyramid(plan, encode, GLASS)
        for painted in self.painted():
            encoded = encode_block(painted, plan, encode)
            yield from chain(encoded.tiles, upper.add(encoded))

    def _painted(self, block: Block) -> UpscaledBlock:
        pixels, side = self.image[block.write.slices], self.tile_px
        rows, columns = (-(-length // side) for length in pixels.shape[:2])
        glass = np.zeros((rows, columns), bool)
        for row, column in np.ndindex(rows, columns):
            tile = pixels[(Box(column, row, 1, 1) * side).slices]
            glass[row, column] = bool((tile == GLASS).all())
        return UpscaledBlock(block, None if glass.all() else pixels, glass)

    def write(self, path: Path, *, overwrite: bool = False) -> Path:
        with self.writer(path, overwrite=overwrite) as writer:
            append(self, writer)
            assert writer.finish() == path.stat().st_size
        return path


def append(sheet: Sheet, writer: SlideWriter) -> None:
    """Writes all blocks."""
    for painted in sheet.painted():
        writer.append(writer.encode(painted))


def stained(width: int, height: int) -> U8:
    """Tissue with fine noise, and plain glass at the top right."""
    noise = np.random.default_rng(1).integers(-8, 9, (height, width, 1))
    image = (tissue(width, height) + noise).clip(0, 255).astype(np.uint8)
    image[: height // 2, width // 2 :] = GLASS
    return image
