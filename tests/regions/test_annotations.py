"""Regions are read as drawn, strangers' files are refused, and rasterising loses nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from support.annotations import asap

from slidesr.errors import RefusedError
from slidesr.geometry import Size
from slidesr.regions.annotations import read_lesions, read_roi, roi_mask

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE], "plane": {"z": 0}}
FEATURE = {"type": "Feature", "id": "PathAnnotationObject", "geometry": POLYGON, "properties": {}}
POINT = {"type": "Point", "coordinates": [1, 2]}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "root",
    [
        {"type": "FeatureCollection", "features": [FEATURE]},
        [FEATURE],
        FEATURE,
        POLYGON,
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]},
        {"type": "GeometryCollection", "geometries": [POLYGON, POINT]},
    ],
)
def test_every_form_of_geojson_holds_the_same_area(tmp_path: Path, root: Any) -> None:
    assert read_roi(written(tmp_path / "a.geojson", json.dumps(root))).area == 100**2 - 20**2


def test_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    assert read_roi(written(tmp_path / "a.json", "\ufeff" + json.dumps(POLYGON))).area == 9600


def test_crossing_polygon_is_mended(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    assert read_roi(written(tmp_path / "a.json", json.dumps(bow))).area == 50


def test_points_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_roi(written(tmp_path / "a.json", json.dumps([POINT, FEATURE])))
    assert "shapes without an area are skipped: 1" in caplog.text


def test_asap_areas_lose_their_exclusions(tmp_path: Path) -> None:
    text = asap(
        ("Polygon", "_0", SQUARE[:-1]),
        ("Spline", "None", [[200, 0], [210, 0], [210, 10], [200, 10]]),
        ("Rectangle", "_2", HOLE[:-1]),
        ("Polygon", "Exclusion", [[0, 0], [10, 0], [10, 10], [0, 10]]),
        ("Dot", "None", [[5, 5]]),
    )
    assert read_roi(written(tmp_path / "a.xml", text)).area == 10000 + 100 - 400 - 100


@pytest.mark.parametrize("cut", ["_2", "Exclusion", "normal", "Benign", "non-tumour"])
def test_lesions_of_asap_lose_what_is_no_lesion(tmp_path: Path, cut: str) -> None:
    text = asap(
        ("Polygon", "_0", SQUARE[:-1]),
        ("Polygon", "_1", [[200, 0], [210, 0], [210, 10], [200, 10]]),
        ("Polygon", "None", [[300, 0], [310, 0], [310, 10], [300, 10]]),
        ("Polygon", cut, HOLE[:-1]),
    )
    assert read_lesions(written(tmp_path / "a.xml", text)).area == 10000 + 100 + 100 - 400
    assert read_lesions(written(tmp_path / "a.xml", text), ["_0"]).area == 10000 - 400


def test_lesions_of_qupath_are_of_the_classes_asked_for(tmp_path: Path) -> None:
    def classified(name: str, geometry: dict[str, Any]) -> dict[str, Any]:
        kind = {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}}
        return FEATURE | {"geometry": geometry, "properties": kind}

    inside, away = (
        {"type": "Polygon", "coordinates": [[[x, 0], [x + 10, 0], [x + 10, 10], [x, 0]]]}
        for x in (0, 500)
    )
    drawn = [
        classified("Tumor", POLYGON),
        classified("Ignore*", inside),
        classified("Stroma", away),
    ]
    path = written(tmp_path / "a.geojson", json.dumps(drawn))
    assert read_lesions(path).area == 9600 - 50 + 50
    assert read_lesions(path, ["Tumor"]).area == 9600 - 50
    assert read_roi(path).area == 9600 + 50
    with pytest.raises(RefusedError, match="no area of kind Tumour"):
        read_lesions(path, ["Tumour"])


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "{}",
        "[" * 100_000,
        json.dumps(POINT),
        '{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [1, 1], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}',
        '{"type": "Polygon", "coordinates": [[0, 1, 2]]}',
        '{"type": "Polygon", "coordinates": []}',
        '{"type": "Polygon", "coordinates": null}',
        '{"type": "Feature", "geometry": null}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]}',
        "<ASAP_Annotations>",
        "<Annotations/>",
        asap(),
        asap(("Polygon", "_2", SQUARE)),
        asap(("Polygon", "_0", SQUARE)).replace('X="100"', 'X="1,5"'),
        asap(("Polygon", "_0", SQUARE)).replace("Order", "Odor"),
        ENTITY + asap(("Polygon", "_0", SQUARE)),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "bad.roi", text)
    with pytest.raises(RefusedError, match=r"bad\.roi: .+\. (Give|Draw)"):
        read_roi(path)


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="No such file"):
        read_roi(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate(2**28 + 1)
    with pytest.raises(RefusedError, match="larger than 256 MiB"):
        read_roi(tmp_path / "huge.json")


sides = st.integers(1, 60)
degrees = st.lists(st.integers(0, 359), min_size=3, max_size=9, unique=True).map(sorted)


@settings(max_examples=60, deadline=None)
@given(degrees, st.floats(-20, 400), st.floats(-20, 400), st.floats(1, 200), sides, sides)
def test_mask_holds_all_of_the_roi_and_little_more(
    degrees: list[int], x: float, y: float, radius: float, width: int, height: int
) -> None:
    slide, mask = Size(377, 251), Size(width, height)
    t = np.deg2rad(degrees)
    ring = np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], axis=-1)
    roi = shapely.make_valid(shapely.Polygon(ring))
    found = roi_mask(roi, slide, mask)
    assert found.shape == (height, width)
    at = np.random.default_rng(0).uniform((0, 0), (377, 251), (500, 2))
    column, row = (at * (width / 377, height / 251)).astype(int).T
    assert found[row, column][shapely.contains_xy(roi, at)].all()
    pixel = max(377 / width, 251 / height)
    far = shapely.distance(roi, shapely.points(at)) > 2 * 2**0.5 * 2 * pixel
    assert not found[row, column][far].any()


def test_hole_and_island_stay() -> None:
    ring, island = shapely.box(0, 0, 300, 300), shapely.box(140, 140, 160, 160)
    roi = shapely.union(shapely.difference(ring, shapely.box(50, 50, 250, 250)), island)
    found = roi_mask(roi, Size(300, 300), Size(300, 300))
    assert found[10, 10]
    assert found[150, 150]
    assert not found[100, 100]


def test_roi_beside_the_slide_is_empty() -> None:
    assert not roi_mask(shapely.box(500, 0, 600, 50), Size(300, 300), Size(30, 30)).any()


@pytest.mark.parametrize("corners", [1000, 30_000])
def test_an_outline_that_crosses_itself_everywhere_is_refused_at_once(
    tmp_path: Path, corners: int
) -> None:
    """Mending 3,000 random corners took minutes and 4 GB."""
    ring = np.random.default_rng(0).uniform(0, 300, (corners, 2)).tolist()
    star = {"type": "Polygon", "coordinates": [ring]}
    with pytest.raises(RefusedError, match="cross themselves"):
        read_roi(written(tmp_path / "a.json", json.dumps(star)))


def test_an_outline_with_a_few_crossings_is_mended(tmp_path: Path) -> None:
    x = np.arange(200.0)
    zigzag = np.stack([x, 50 * np.cos(np.pi * x / 2)], 1)
    back = np.stack([x[::-1], np.full(200, 3.0)], 1)
    ring = {"type": "Polygon", "coordinates": [np.concatenate([zigzag, back]).tolist()]}
    assert read_roi(written(tmp_path / "a.json", json.dumps(ring))).area > 100
