"""A pixel of the output depends on the slide and the model alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import immunohistochemistry
from support.models import tiny_generator

from slidesr.geometry import Box, Pixels, Size
from slidesr.model.device import Engine
from slidesr.model.model import Model, Upscaler
from slidesr.pipeline.block_upscaler import BlockUpscaler
from slidesr.pipeline.tile_size import Tuner
from slidesr.regions.tissue_mask import Tissue, all_tissue
from slidesr.slide import Frame
from slidesr.tiling import CELL_PX, TilePlan

_GLASS = (240, 238, 242)


class Nearest:
    """A local stub: every pixel becomes a square of itself; counts the tiles it was given."""

    scale, halo_px, window_px = 4, 3, 16

    def __init__(self, batch_size: int = 1) -> None:
        self.tiles, self.source_px, self.batch_size = 0, 0, batch_size

    def upscale(self, tiles: Pixels) -> Pixels:
        self.tiles += len(tiles)
        halo = self.halo_px
        inside = tiles[:, halo:-halo, halo:-halo]
        self.source_px += inside[..., 0].size
        return inside.repeat(self.scale, axis=1).repeat(self.scale, axis=2)


def tiny_model(*, ensemble: bool) -> Model:
    """Its windows are those of the shipped models, so that no map is narrower than theirs."""
    return Model(*tiny_generator(2, window=32), "", Engine("cpu", "fp32"), ensemble=ensemble)


def texture(width: int, height: int) -> Pixels:
    section: Pixels = immunohistochemistry()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.tile(section, (2, 2, 1))[100 : 100 + height, 60 : 60 + width])


def frame_of(image: Pixels) -> Frame:
    def read(box: Box) -> Pixels:
        return image[box.slices]

    return Frame(Size(image.shape[1], image.shape[0]), None, None, 1.0, 0, read)


def painted(
    image: Pixels, plan: TilePlan, upscaler: Upscaler, tissue: Tissue, tuner: Tuner | None = None
) -> Pixels:
    """The whole output, put together from blocks."""
    blocks_of = BlockUpscaler(frame_of(image), plan, tissue, upscaler, tuner)
    canvas = np.zeros((plan.output.height, plan.output.width, 3), np.uint8)
    for block in plan.blocks():
        made = blocks_of.upscale(blocks_of.read(block))
        canvas[block.write.slices] = tissue.glass if made.pixels is None else made.pixels
    return canvas


def plan_for(region: Box, upscaler: Upscaler, tile_cells: int, doublings: int) -> TilePlan:
    plan = TilePlan.near(tile_cells * CELL_PX, region, upscaler.scale, upscaler.window_px)
    return replace(plan, output_tile_px=128, block_doublings=doublings)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_tiled_equals_whole_bit_for_bit(data: st.DataObject) -> None:
    image = texture(data.draw(st.integers(20, 150)), data.draw(st.integers(20, 150)))
    x, y = (data.draw(st.integers(0, side - 1)) for side in (image.shape[1], image.shape[0]))
    region = Box(
        x,
        y,
        data.draw(st.integers(1, image.shape[1] - x)),
        data.draw(st.integers(1, image.shape[0] - y)),
    )
    model = tiny_model(ensemble=data.draw(st.booleans()))
    plan = plan_for(region, model, data.draw(st.integers(1, 4)), data.draw(st.integers(0, 2)))
    tile = region.snapped(plan.grid_px)  # no narrower than any of the plan's: see test_generator.py
    whole = model.upscale(frame_of(image).read(tile.grown(model.halo_px))[None])[0]
    whole = whole[(region.within(tile) * model.scale).slices]
    tuner = Tuner([CELL_PX * cells for cells in data.draw(st.sets(st.integers(1, 4), min_size=1))])
    assert np.array_equal(painted(image, plan, model, all_tissue(), tuner), whole)


@settings(max_examples=25, deadline=None)
@given(
    mask=st.lists(st.booleans(), min_size=12, max_size=12),
    tile_cells=st.integers(1, 4),
    doublings=st.integers(0, 2),
    batch_size=st.sampled_from([1, 4]),
)
def test_the_network_makes_tissue_and_bicubic_the_rest(
    mask: list[bool], tile_cells: int, doublings: int, batch_size: int
) -> None:
    image = texture(4 * CELL_PX, 3 * CELL_PX)
    cells = np.array(mask).reshape(3, 4)
    stub = Nearest(batch_size)
    plan = plan_for(Box(0, 0, 128, 96), stub, tile_cells, doublings)
    got = painted(image, plan, stub, Tissue(cells, _GLASS))
    of_pixels = cells.repeat(CELL_PX * 4, 0).repeat(CELL_PX * 4, 1)[..., None]
    nearest = image.repeat(4, 0).repeat(4, 1)
    assert np.array_equal(got, np.where(of_pixels, nearest, _bicubic(image, 4)))
    assert stub.tiles <= cells.sum()  # a tile without tissue never reaches it


def test_a_tile_is_cut_where_that_saves_more_than_halos_cost() -> None:
    image = texture(8 * CELL_PX, 8 * CELL_PX)
    corners, cross = np.zeros((2, 8, 8), bool)
    corners[[0, 0, 7, 7], [0, 7, 0, 7]] = True
    cross[3:5, :] = cross[:, 3:5] = True
    plan = plan_for(Box(0, 0, 256, 256), Nearest(), 8, 3)
    tiles = {}
    for name, cells in {"corners": corners, "cross": cross, "all": np.ones((8, 8), bool)}.items():
        stub = Nearest()
        painted(image, plan, stub, Tissue(cells, _GLASS))
        tiles[name] = stub.tiles, stub.source_px // CELL_PX**2
    assert tiles == {"corners": (4, 4), "cross": (12, 32), "all": (1, 64)}


def _bicubic(image: Pixels, scale: int) -> Pixels:
    """Bicubic of the image mirrored at its borders."""
    height, width = image.shape[:2]
    padded = Image.fromarray(np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="symmetric"))
    size = ((width + 16) * scale, (height + 16) * scale)
    enlarged = np.asarray(padded.resize(size, Image.Resampling.BICUBIC))
    return enlarged[8 * scale : -8 * scale, 8 * scale : -8 * scale]


def test_plain_glass_becomes_one_colour_and_is_told() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(-4, 5, (256, 256, 3))
    image = (np.array(_GLASS) + noise).astype(np.uint8)
    stub = Nearest()
    plan = plan_for(Box(0, 0, 256, 256), stub, 4, 1)
    blocks_of = BlockUpscaler(frame_of(image), plan, Tissue(np.zeros((1, 1), bool), _GLASS), stub)
    blocks = [blocks_of.upscale(blocks_of.read(block)) for block in plan.blocks()]
    assert all(made.pixels is None and made.glass.all() for made in blocks)
    assert stub.tiles == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: np.maximum(image.astype(int) - 3, 0).astype(np.uint8),  # another tint
        lambda image: np.where(np.indices(image.shape).sum(0) % 97 == 0, 90, image).astype(
            np.uint8
        ),  # specks
    ],
)
def test_glass_that_can_be_told_from_the_shared_tile_is_kept(
    spoil: Callable[[Pixels], Pixels],
) -> None:
    image = spoil(np.full((64, 64, 3), _GLASS, np.uint8))
    stub = Nearest()
    plan = plan_for(Box(0, 0, 64, 64), stub, 1, 0)
    got = painted(image, plan, stub, Tissue(np.zeros((1, 1), bool), _GLASS))
    assert np.array_equal(got, _bicubic(image, 4))


def test_glass_does_not_depend_on_the_block() -> None:
    image = np.full((300, 300, 3), _GLASS, np.uint8)
    image[140:170, 100:260] = texture(160, 30)
    cells = np.zeros((10, 10), bool)
    cells[4:6, 3:9] = True
    tissue = Tissue(cells, _GLASS)
    made = [
        painted(image, plan_for(Box(0, 0, 300, 300), Nearest(), tile, doublings), Nearest(), tissue)
        for tile, doublings in ((1, 0), (3, 1), (4, 3))
    ]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])
