"""Any OME-Zarr store shows its right pixels, or is refused in one line; which, is known before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.zarr_files import Image, bioformats2raw

from slidesr.errors import RefusedError, SlidesrError
from slidesr.imaging.window import Window, WindowChoice
from slidesr.slide import Slide, open_slide

EXAMPLES = int(os.environ.get("SLIDESR_EXAMPLES", "100"))
UNITS = {
    "micrometer": 1.0, "micrometre": 1.0, "Micrometers": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0,
    "micron": 1.0, "microns": 1.0, " um ": 1.0, "nanometer": 1e-3, "nm": 1e-3, "millimeter": 1e3,
    "mm": 1e3, "cm": 1e4, "centimetre": 1e4, "m": 1e6, "meter": 1e6, "Å": 1e-4, "angstrom": 1e-4,
    "Mm": None, "pixel": None, "second": None, "": None, None: None,
}  # fmt: skip
COLOURS = {"r": ("FF0000", "#ff0000"), "g": ("00FF00", "00ff00"), "b": ("0000FF", "0000ff")}
LABELS = {
    "r": ("Red", "R", "RED", "red channel"),
    "g": ("Green", "g", "green", "Channel G"),
    "b": ("Blue", "B", "BLUE", "channel_blue"),
}
NO_LABELS: tuple[str | None, ...] = (None, "", "Channel 0", "0", "Channel:0:1")
NO_COLOURS: tuple[str | None, ...] = (None, "FFFFFF", "808080", "", "red?")
FOREIGN = ("DAPI", "FITC", "TRITC", "Cy5")
FOREIGN_COLOURS = ("FF00FF", "00FFFF", "FFFF00", "FE0000", "000000")
Said = Sequence[tuple[str | None, str | None]]


@dataclass(frozen=True)
class Roles:
    """What omero says of some channels, and the stored ones that are R, G, B; None: refused."""

    said: Said | None
    rgb: tuple[int, ...] | None
    alpha: int | None = None


@dataclass(frozen=True)
class Case:
    image: Image
    roles: Roles
    layout: str
    window: WindowChoice

    @property
    def is_read(self) -> bool:
        """Whether the store must be read; else it must be refused."""
        image, dtype = self.image, self.image.levels[0].dtype
        is_deep = dtype.str[1:] == "u2"
        fits_window = self.window is not None if is_deep else not isinstance(self.window, Window)
        return (
            dtype.str[1:] in ("u1", "u2")
            and fits_window
            and not (is_deep and self.roles.alpha is not None)
            and image.version != "0.6"
            and all(length == 1 for length in image.planes.values())
            and self.roles.rgb is not None
            and self.layout != "twins"
        )

    @property
    def used(self) -> list[NDArray[Any]]:
        """The levels as R, G, B, in the samples of the store: [y, x, 3]."""
        assert self.roles.rgb is not None
        return [np.stack([level[at] for at in self.roles.rgb], -1) for level in self.image.levels]

    @property
    def seen_window(self) -> Window | None:
        if self.image.levels[0].dtype.itemsize == 1 or isinstance(self.window, Window):
            return self.window if isinstance(self.window, Window) else None
        largest = int(self.used[-1].max())
        return Window(0, min(2**bits - 1 for bits in (8, 10, 12, 14, 16) if 2**bits > largest))

    def pixels(self, level: int) -> NDArray[np.uint8] | None:
        """The right ones; None where an automatic window is too small for them."""
        samples, window = self.used[level].astype(float), self.seen_window
        if window is not None:
            if self.window == "auto" and samples.max() > window.high:
                return None
            share = (samples - window.low) / (window.high - window.low)
            return np.asarray(np.rint(share.clip(0, 1) * 255), np.uint8)
        if self.roles.alpha is not None:
            alpha = self.image.levels[level][self.roles.alpha][..., None] / 255
            samples = samples * alpha + 255 * (1 - alpha)
        return np.asarray(np.rint(samples), np.uint8)


@st.composite
def grey(draw: st.DrawFn) -> Roles:
    label = draw(st.sampled_from([*NO_LABELS, "Grey", "DAPI"]))
    colour = draw(st.sampled_from([None, "FFFFFF", "808080", "", "ff0000", *FOREIGN_COLOURS]))
    is_grey = colour in (None, "FFFFFF", "808080", "")
    said = draw(st.sampled_from([None, [(label, colour)]]))
    return Roles(said, (0, 0, 0) if is_grey or said is None else None)


@st.composite
def three(draw: st.DrawFn) -> Roles:
    """Three channels in any order, told by colours, by labels, by both, or not at all."""
    names = draw(st.permutations("rgb"))
    order = tuple(names.index(name) for name in "rgb")
    colours = [draw(st.sampled_from(COLOURS[name])) for name in names]
    labels = [draw(st.sampled_from(LABELS[name])) for name in names]
    no_labels = [draw(st.sampled_from(NO_LABELS)) for _ in names]
    no_colours = [draw(st.sampled_from(NO_COLOURS)) for _ in names]
    foreign = draw(st.permutations(FOREIGN))[:3]
    strange = [draw(st.sampled_from(FOREIGN_COLOURS)), *colours[1:]]
    twice = [colours[0], colours[0], colours[2]]
    shifted = [*labels[1:], labels[0]]
    ways: list[tuple[Sequence[str | None], Sequence[str | None], tuple[int, ...] | None]] = [
        (labels, colours, order),
        (no_labels, colours, order),
        (labels, no_colours, order),
        ([foreign[0], *no_labels[1:]], colours, order),
        ([foreign[0]] * 3, colours, order),
        ([None, "", "1"], [None, "", None], (0, 1, 2)),
        (no_labels, [*no_colours[:2], "808080"], None),
        (no_labels, [colours[0], *no_colours[1:]], None),
        (foreign, colours, None),
        (foreign, no_colours, None),
        (labels, strange, None),
        (no_labels, strange, None),
        (no_labels, twice, None),
        (labels, twice, None),
        (shifted, colours, None),
        ([labels[0], labels[0], labels[2]], no_colours, None),
    ]
    right = [way for way in ways if way[2] is not None]
    chosen = draw(st.sampled_from([None, *ways, *right, *right]))
    if chosen is None:
        return Roles(None, (0, 1, 2))
    return Roles(list(zip(chosen[0], chosen[1], strict=True)), chosen[2])


@st.composite
def four(draw: st.DrawFn) -> Roles:
    """Red, green, blue and a fourth in any order."""
    names = draw(st.permutations("rgb?"))
    order = tuple(names.index(name) for name in "rgb")
    fourth = draw(
        st.sampled_from([("A", None), ("alpha", "FFFFFF"), ("IR", "FF00FF"), ("x", None)])
    )
    pairs = {
        name: (draw(st.sampled_from(LABELS[name])), draw(st.sampled_from(COLOURS[name])))
        for name in "rgb"
    }
    said = [pairs.get(name, fourth) for name in names]
    labelled = [(label, None) for label, _ in said]
    is_alpha = fourth[0] in ("A", "alpha")
    right = Roles(said, order, names.index("?") if is_alpha else None)
    coloured = [(f"Channel {at}", colour) for at, (_, colour) in enumerate(said)]
    dyes = list(zip(draw(st.permutations(FOREIGN)), [colour for _, colour in said], strict=True))
    others = [Roles(each, None) for each in (None, coloured, dyes, said[:3])]
    return draw(
        st.sampled_from([right, right, right, Roles(labelled, order, right.alpha), *others])
    )


@st.composite
def samples(draw: st.DrawFn, count: int, fill: int) -> list[NDArray[Any]]:
    """One to three levels of [c, y, x], with a part that may be chunks that are left out."""
    usual = ["|u1"] * 10 + ["<u2", ">u2"] * 5
    dtype = np.dtype(draw(st.sampled_from([*usual, "|i1", "<f4", "<u4", ">i2"])))
    bits = draw(st.sampled_from([8, 10, 12, 16])) if dtype.itemsize > 1 else 7
    shape = (count, draw(st.integers(1, 24)), draw(st.integers(2, 24)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    level = rng.integers(0, 2**bits if dtype.str[1:] != "u1" else 256, shape)
    level = level.astype(dtype) if dtype.str[1:] != "i2" else (level % 2**15).astype(dtype)
    level[:, 5:30, 5:30] = fill
    if dtype.str[1:] == "u2" and draw(st.booleans()):
        level[:, 1:2, 1:2] = (
            2**bits - 1 + (bits < 16)
        )  # a bright place, which coarser levels do not have
    levels = [level]
    for _ in range(draw(st.integers(0, 2))):
        if levels[-1].shape[1:] != (1, 1):
            levels.append(levels[-1][:, ::2, ::2])
    return levels


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.sampled_from([0, 1, *[3] * 9, *[4] * 3, 2]))
    kinds = {0: grey(), 1: grey(), 2: st.just(Roles(None, None)), 3: three(), 4: four()}
    roles = draw(kinds[count])
    version = draw(st.sampled_from(["0.2", "0.3", *["0.4", "0.5"] * 5, "0.6"]))
    letters = "yx" + "c" * (count > 0) + draw(st.sampled_from(["", "", "t", "z", "tz", "q"]))
    axes = "".join(draw(st.permutations(letters)))
    if version == "0.2":  # which implies the axes
        axes, count = "tczyx", max(count, 1)
    planes = {name: draw(st.sampled_from([1] * 12 + [2])) for name in axes if name not in "cyx"}
    unit = draw(st.sampled_from(list(UNITS)))
    factor = UNITS[unit] or 1.0
    fill = draw(st.sampled_from([0, 0, 7, 100]))
    image = Image(
        draw(samples(max(count, 1), fill)),
        axes=axes,
        version=version,
        zarr_format=draw(st.sampled_from([2, 3])),
        planes=planes,
        channels=roles.said,
        unit=unit,
        scale=(0.25 / factor, 0.5 / factor),
        chunk=draw(st.sampled_from([5, 8, 16, 64])),
        order=draw(st.sampled_from("CF")),
        separator=draw(st.sampled_from("./")),
        fill=fill,
        is_sharded=draw(st.booleans()),
    )
    layout = draw(st.sampled_from([*["plain", "zip", "first", "last", "zipped"] * 2, "twins"]))
    deep = image.levels[0].dtype.itemsize > 1
    windows: list[WindowChoice] = [None, "auto", Window(0, 4095)]
    windows += ["auto", "auto", Window(9, 3000)] * 2 if deep else [None] * 6
    return Case(image, roles, layout, draw(st.sampled_from(windows)))


def written(case: Case, folder: Path) -> Path:
    """The store, alone or beside a smaller image, maybe in a zip."""
    path = folder / "a.zarr"
    macro = Image(
        [np.full((1, 1, 1), 90, np.uint8)], axes="tczyx", zarr_format=case.image.zarr_format,
        version=case.image.version,
    )  # fmt: skip
    by_layout = {
        "first": [case.image, macro], "last": [macro, case.image], "zipped": [macro, case.image],
        "twins": [case.image, case.image],
    }  # fmt: skip
    if case.layout in by_layout:
        bioformats2raw(path, by_layout[case.layout])
    else:
        case.image.write(path)
    if case.layout in ("zip", "zipped"):
        return Path(shutil.make_archive(str(path), "zip", path))
    return path


def check_read(case: Case, slide: Slide) -> None:
    sizes = [(level.shape[2], level.shape[1]) for level in case.image.levels]
    assert [(each.size.width, each.size.height) for each in slide.levels] == sizes
    is_known = case.image.version >= "0.4" and UNITS[case.image.unit] is not None
    found = (slide.mpp.x, slide.mpp.y) if slide.mpp else None
    assert found == (pytest.approx((0.5, 0.25)) if is_known else None)
    assert slide.window == case.seen_window
    assert bool(slide.choice.left_out) == (
        case.layout in ("first", "last", "zipped")
        or (len(case.image.levels[0]) == 4 and case.roles.alpha is None)
    )
    for level in range(len(sizes)):
        read = partial(slide.frame(level=level).read, slide.levels[level].size.box)
        right = case.pixels(level)
        if right is None:
            with pytest.raises(SlidesrError, match="automatic window"):
                read()
        else:
            off = np.abs(read().astype(int) - right)
            assert off.max() <= (0 if case.roles.alpha is None else 1)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(case=cases())
def test_a_store_is_read_right_or_refused(case: Case) -> None:
    with TemporaryDirectory() as folder:
        path = written(case, Path(folder))
        if case.is_read:
            with open_slide(path, window=case.window) as slide:
                check_read(case, slide)
        else:
            with pytest.raises(RefusedError) as error:
                open_slide(path, window=case.window)
            assert "\n" not in str(error.value)
            assert str(error.value).startswith(f"{path}: ")
