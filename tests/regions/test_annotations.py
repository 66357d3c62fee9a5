"""Regions are read as drawn, strangers' files are refused, and rasterising loses nothing."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from support.annotations import asap, feature, square

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
        asap(("Polygon", "_0", SQUARE)).replace('X="100"', 'X="1,5,0"'),
        asap(("Polygon", "_0", SQUARE)).replace("Y=", "Z="),
        "<a>\0</a>",
        ENTITY + asap(("Polygon", "_0", SQUARE)),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "bad.roi", text)
    with pytest.raises(RefusedError, match=r"bad\.roi: .+\. (Give|Draw)") as refused:
        read_roi(path)
    told = str(refused.value)
    assert "\n" not in told
    assert not re.search("NoneType|object|subscript|keyword|Error|codec|Expecting|recursion", told)


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="No such file"):
        read_roi(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate(2**28 + 1)
    with pytest.raises(RefusedError, match="larger than 256 MiB"):
        read_roi(tmp_path / "huge.json")


# ---- QuPath and ASAP -----------------------------------------------------------------------------

TUMOR = [
    {"name": "Tumor", "color": [200, 0, 0]},
    {"name": "Tumor", "colorRGB": -3670016},
    {"names": ["Tumor", "Positive"], "color": [200, 0, 0]},
    {"parentClass": {"name": "Tumor", "colorRGB": -1}, "name": "Positive", "colorRGB": -2},
    {"name": "Tumor: Positive"},
    "Tumor",
    "Tumor: Positive",
    '{"name": "Tumor", "color": [200, 0, 0]}',
]
NO_CLASS: list[Any] = [None, {}, {"name": None}, {"names": []}, {"names": [None, 3]}, [], 7, ""]


def found(path: Path, drawn: Any) -> Path:
    return written(path / "a.geojson", json.dumps(drawn))


@pytest.mark.parametrize("kind", TUMOR)
def test_a_class_is_found_however_it_is_written(tmp_path: Path, kind: Any) -> None:
    cut = json.loads(json.dumps(kind).replace("Tumor", "Exclusion"))
    drawn = [feature(square(0, 0, 160, 240), kind), feature(square(0, 0, 80), cut)]
    path = found(tmp_path, [*drawn, feature(square(500, 0, 10), "Stroma")])
    assert read_roi(path).area == 160 * 240 - 80 * 80 + 100
    assert read_lesions(path, ["Tumor"]).area == 160 * 240 - 80 * 80
    if "Positive" in json.dumps(kind):
        assert read_lesions(path, ["Tumor: Positive"]).area == 160 * 240 - 80 * 80
    with pytest.raises(RefusedError, match="no area of kind Positive"):
        read_lesions(path, ["Positive"])


@pytest.mark.parametrize("kind", NO_CLASS)
def test_an_object_without_a_class_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    path = found(tmp_path, feature(square(0, 0, 10), kind, name="Exclusion"))
    with caplog.at_level(logging.INFO):
        assert read_lesions(path).area == read_roi(path).area == 100
    assert "a.geojson: no class 1" in caplog.text


def test_the_first_name_decides(tmp_path: Path) -> None:
    """76,800 px is all of the slide of case f16; its file outlines the left half of it."""
    drawn = [
        feature(square(0, 0, 320, 240), {"names": ["Tumor", "Exclusion zone"]}),
        feature(square(0, 0, 80), {"names": ["Exclusion", "Tumor"]}),
    ]
    assert read_roi(found(tmp_path, drawn)).area == 76_800 - 6_400 == 70_400


def test_children_are_read_and_the_root_is_not(tmp_path: Path) -> None:
    core = feature(square(0, 0, 100), objectType="tmaCore", isMissing=False)
    core["properties"]["childObjects"] = [feature(square(10, 10, 10), "Ignore*: Exclusion")]
    missing = feature(square(500, 0, 100), objectType="tmaCore", isMissing=True)
    missing["properties"]["childObjects"] = [feature(square(900, 0, 10), "Exclusion")]
    root = feature(None, objectType="root", childObjects=[core, missing])
    path = found(tmp_path, {"root": root, "tmaGrid": {"width": 2, "cores": ["a"]}})
    assert read_roi(path).area == 100**2


@pytest.mark.parametrize(
    "marks",
    [
        {"objectType": "detection"},
        {"objectType": "cell", "measurements": {"Nucleus: Area": 3.5}},
        {"objectType": None, "type": "tile"},
        {"objectType": None, "object_type": "tma_core"},
    ],
)
def test_what_is_detected_is_lesion_only_by_name(tmp_path: Path, marks: dict[str, Any]) -> None:
    cell = feature(square(500, 0, 10), "Tumor", **marks)
    cell["nucleusGeometry"] = square(900, 0, 10)
    path = found(tmp_path, [feature(square(0, 0, 10), "Tumor", isLocked=True), cell])
    assert read_roi(path).area == 200
    assert read_lesions(path).area == 100
    assert read_lesions(path, ["Tumor"]).area == 200
    with pytest.raises(RefusedError, match=r"Tumor 1 \(detected, not used\)\..* with --lesion"):
        read_lesions(found(tmp_path, cell))


def test_other_planes_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def on(**plane: int) -> dict[str, Any]:
        return feature(square(0, 0, 10 * (1 + sum(plane.values()))) | {"plane": plane}, "Tumor")

    drawn = [on(c=-1, z=1, t=0), on(z=0, t=2), on(c=-1, z=0, t=0), on(c=2)]
    assert read_roi(found(tmp_path, drawn)).area == 30**2
    assert "other planes than z 0 and t 0 are left out: 2 (Tumor 2)" in caplog.text
    with pytest.raises(RefusedError, match="holds no area; shapes on other planes"):
        read_roi(found(tmp_path, drawn[:1]))


BROKEN: list[Any] = [
    None,
    {},
    [None],
    {"type": "Circle", "coordinates": [1, 2]},
    {"type": "Polygon"},
    {"type": "Polygon", "coordinates": None},
    {"type": "Polygon", "coordinates": []},
    {"type": "Polygon", "coordinates": [[]]},
    {"type": "Polygon", "coordinates": {"a": 1}},
    {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
    {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]},
    {"type": "Polygon", "coordinates": [[[0, 0], [1], [1, 1], [0, 0]]]},
    {"type": "Polygon", "coordinates": [[["a", 0], [9, 0], [9, 9], ["a", 0]]]},
    {"type": "Polygon", "coordinates": [[[None, 0], [9, 0], [9, 9], [None, 0]]]},
    {"type": "Polygon", "coordinates": [[[1e300, 0], [9, 0], [9, 9], [0, 0]]]},
    {"type": "Polygon", "coordinates": [[[10**400, 0], [9, 0], [9, 9], [0, 0]]]},
    {"type": "Polygon", "coordinates": [SQUARE, [[1, 1], [2, 2]]]},
    {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[0, 0]]]]},
    {"type": "MultiPolygon", "coordinates": []},
]


@pytest.mark.parametrize("geometry", BROKEN)
def test_a_damaged_shape_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, geometry: Any
) -> None:
    drawn = [feature(geometry, "Exclusion"), feature(square(0, 0, 200), "Tumor")]
    assert read_roi(found(tmp_path, drawn)).area == 200**2
    assert "shapes that cannot be read are left out: 1 (Exclusion 1)" in caplog.text
    with pytest.raises(RefusedError, match="holds no area; shapes that cannot be read"):
        read_roi(found(tmp_path, drawn[:1]))


def test_a_feature_needs_neither_type_nor_properties(tmp_path: Path) -> None:
    drawn = {"features": [{"geometry": square(0, 0, 10)}, {"type": "Feature", "properties": None}]}
    assert read_roi(found(tmp_path, drawn)).area == 100


@pytest.mark.parametrize(
    ("groups", "kinds", "area"),
    [
        ({"fold": "None", "a": "None"}, [], 10000),
        ({"fold": "exclude", "exclude": "None"}, [], 9600),
        ({"fold": "b", "b": "exclude", "exclude": "None"}, [], 9600),
        ({"fold": "b", "b": "fold"}, [], 10000),
        ({"a": "lesions", "lesions": "None"}, ["lesions"], 10000),
        ({"a": "lesions", "fold": "Exclusion"}, ["lesions", "fold"], 9600),
        ({"a": "None", "fold": "Exclusion"}, ["Exclusion"], 400),
    ],
)
def test_a_group_of_asap_is_what_the_groups_above_it_are(
    tmp_path: Path, groups: dict[str, str], kinds: list[str], area: int
) -> None:
    drawn = asap(("Polygon", "a", SQUARE[:-1]), ("Polygon", "fold", HOLE[:-1]), groups=groups)
    assert read_lesions(written(tmp_path / "a.xml", drawn), kinds).area == area


TRIANGLE = asap(("Spline", "None", [[0, 0], [100, 0], [100, 50], [100, 100]]))


@pytest.mark.parametrize(
    "text",
    [
        TRIANGLE,
        re.sub(r'(X|Y)="(\d+)"', r'\1="\2,0"', TRIANGLE),  # of a system that writes 0,5
        re.sub(r'(X|Y)="(\d+)"', r'\1="\2e+0"', TRIANGLE),
        re.sub(r'Order="(\d+)"', r'Order="\1.0"', TRIANGLE),
        TRIANGLE.replace("Order", "Odor"),
        TRIANGLE.replace('Order="1"', ""),
        TRIANGLE.replace("<Annotations>", "<Annotations><!-- 1 -->"),
    ],
)
def test_numbers_of_asap_are_read(tmp_path: Path, text: str) -> None:
    assert read_roi(written(tmp_path / "a.xml", text)).area == 5000


def test_asap_shapes_without_an_area_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = asap(
        *((kind, "None", SQUARE[:-1]) for kind in ("Dot", "PointSet", "Measurement", "None")),
        ("Polygon", "metastases", SQUARE[:-1]),
        ("Polygon", "_2", SQUARE[:2]),
    )
    assert read_lesions(written(tmp_path / "a.xml", text)).area == 10_000
    assert "shapes without an area are skipped: 4 (no class 4)" in caplog.text
    assert "shapes that cannot be read are left out: 1 (_2 1)" in caplog.text


# ---- what is told --------------------------------------------------------------------------------


def kinds_of(**counts: int) -> list[dict[str, Any]]:
    at = iter(range(0, 100_000, 50))
    return [
        feature(square(next(at), 0, 10), name.replace("_", " ").strip() or None)
        for name, count in counts.items()
        for _ in range(count)
    ]


def test_the_classes_found_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = found(tmp_path, kinds_of(Tumor=12, Stroma=3, _=2, Exclusion=1))
    with caplog.at_level(logging.INFO):
        read_roi(path)
        read_lesions(path, ["Tumor"])
    first, second = caplog.messages
    assert first == "a.geojson: Tumor 12, Stroma 3, no class 2, Exclusion 1 (cut out)"
    others = "Stroma 3 (not used), no class 2 (not used), Exclusion 1 (cut out)"
    assert second == f"a.geojson: Tumor 12, {others}"
    has = re.escape(f"it has Tumor 12 (not used), {others}. Give")
    with pytest.raises(RefusedError, match=f"no area of kind Tumour, Krebs; {has}"):
        read_lesions(path, ["Tumour", "Krebs"])


@pytest.mark.parametrize(
    ("counts", "doubts"),
    [
        ({"Tumor": 2}, ""),
        ({"Tumor": 2, "_": 1, "Normal": 1, "Ignore*": 1}, ""),
        ({"Tumor: Positive": 2, "Tumor: Negative": 1}, ""),
        ({"Tumor": 1, "Stroma": 1, "Region*": 1}, "Tumor, Stroma, Region*"),
        ({"Immune cells": 1}, "Immune cells"),
        ({"DCIS": 1, "IDC": 1}, "DCIS, IDC"),
    ],
)
def test_classes_that_may_be_no_lesion_are_doubted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, counts: dict[str, int], doubts: str
) -> None:
    read_lesions(found(tmp_path, kinds_of(**counts)))
    told = f"taken as lesion: {doubts}. Name what is lesion with --lesion."
    assert [each.split(": ", 1)[1] for each in caplog.messages] == ([told] if doubts else [])


def test_a_hundred_classes_are_not_all_told(tmp_path: Path) -> None:
    path = found(tmp_path, kinds_of(**{f"{n}" * 200: 1 for n in range(100, 200)}))
    with pytest.raises(RefusedError, match=r"\.\.\. 1 \(not used\) and 80 more\. Give") as refused:
        read_lesions(path, ["a"])
    assert len(str(refused.value)) < 3000


# ---- gzip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.geojson.gz", "a.json.gz", "a.json"])
def test_gzip_is_recognised_by_its_bytes(tmp_path: Path, name: str) -> None:
    data = gzip.compress(b"\xef\xbb\xbf" + json.dumps(POLYGON).encode())
    (tmp_path / name).write_bytes(data)
    assert read_roi(tmp_path / name).area == 9600
    (tmp_path / "plain.xml.gz").write_text(asap(("Polygon", "_0", SQUARE)))
    assert read_roi(tmp_path / "plain.xml.gz").area == 10_000
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(asap(("Polygon", "_0", SQUARE)).encode()))
    assert read_roi(tmp_path / "a.xml.gz").area == 10_000


@pytest.mark.parametrize(
    "damage", [lambda b: b[:40], lambda b: b[:2], lambda b: b[:30] + b[31:], lambda b: b + b"x" * 9]
)
def test_damaged_gzip_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data = gzip.compress(json.dumps([FEATURE] * 9).encode(), mtime=0)
    (tmp_path / "a.json.gz").write_bytes(damage(data))
    with pytest.raises(RefusedError, match=r"its gzip is damaged\. Compress the file again\."):
        read_roi(tmp_path / "a.json.gz")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.json.gz", "wb", compresslevel=1) as file:
        for _ in range(17):
            file.write(b" " * 2**24)
    with pytest.raises(RefusedError, match="larger than 256 MiB when decompressed"):
        read_roi(tmp_path / "bomb.json.gz")


# ---- any nesting ---------------------------------------------------------------------------------

KINDS = ["Tumor", "Stroma", "Exclusion", "Normal", ""]
boxes = st.tuples(
    st.integers(0, 90), st.integers(0, 90), st.integers(1, 40), st.sampled_from(KINDS)
)


def classes(kind: str) -> st.SearchStrategy[Any]:
    if not kind:
        return st.sampled_from(NO_CLASS)
    texts = st.sampled_from([json.dumps(each) for each in TUMOR])
    return texts.map(lambda text: json.loads(text.replace("Tumor", kind)))


def geometries(geometry: dict[str, Any]) -> st.SearchStrategy[Any]:
    """The same area in other words, with things that have none."""
    rings = geometry["coordinates"]
    deep = [[[[*point, 0] for point in ring] for ring in rings]]
    return st.sampled_from(
        [
            geometry,
            geometry | {"plane": {"c": -1, "z": 0, "t": 0}, "isEllipse": False},
            {"type": "MultiPolygon", "coordinates": deep},
            {"type": "GeometryCollection", "geometries": [POINT, geometry]},
            {"type": "Polygon", "coordinates": [rings[0][:-1]]},
        ]
    )


@st.composite
def wrapped(draw: st.DrawFn, drawn: list[tuple[int, int, int, str]]) -> Any:
    """The boxes as a file of GeoJSON, with damaged features among them."""
    nodes = [
        feature(draw(geometries(square(x, y, side))), draw(classes(kind)), name="Exclusion")
        for x, y, side, kind in drawn
    ]
    for geometry in draw(st.lists(st.sampled_from(BROKEN), max_size=3)):
        nodes.insert(draw(st.integers(0, len(nodes))), feature(geometry, "Tumor"))
    while len(nodes) > 1 and draw(st.booleans()):
        at = draw(st.integers(0, len(nodes) - 1))
        end = draw(st.integers(at, len(nodes)))
        inside = nodes[at:end]
        if draw(st.booleans()):
            nodes[at:end] = [feature(None, objectType="root", childObjects=inside)]
        else:
            nodes[at:end] = [{"type": "FeatureCollection", "features": inside}]
    return draw(st.sampled_from([nodes, {"type": "FeatureCollection", "features": nodes}]))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.lists(boxes, min_size=1, max_size=6), st.booleans())
def test_the_same_shapes_are_found_in_any_wrapping(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, drawn: Any, packed: bool
) -> None:
    path = tmp_path_factory.mktemp("wrapped") / "a.geojson"

    def areas(root: Any, pack: Callable[[bytes], bytes]) -> dict[str, Any]:
        path.write_bytes(pack(json.dumps(root).encode()))
        readings: dict[str, Callable[[Path], shapely.MultiPolygon]] = {
            "roi": read_roi,
            "lesions": read_lesions,
            **{kind: partial(read_lesions, kinds=[kind]) for kind in KINDS[:3]},
        }
        found = {}
        for name, read in readings.items():
            try:
                found[name] = read(path).area
            except RefusedError:
                found[name] = 0
        return found

    flat = [feature(square(x, y, side), kind or None) for x, y, side, kind in drawn]
    wrapping = data.draw(wrapped(drawn))
    assert areas(wrapping, gzip.compress if packed else bytes) == areas(flat, bytes)


# ---- masks ---------------------------------------------------------------------------------------

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
