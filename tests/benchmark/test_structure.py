"""Structure in the benchmark: every number under its name, and its table."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from slidesr.benchmark.export import tables_md
from slidesr.benchmark.judges.structure import STRUCTURE, structure
from slidesr.benchmark.measures import measurable
from slidesr.benchmark.results import Results, Subject
from slidesr.benchmark.statistics import summary
from slidesr.geometry import Size
from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.imaging.spectrum import band_errors_db, grid_db, step_modulation
from slidesr.imaging.stain import stain_errors
from slidesr.model.score_table import column, further_metrics

U8 = NDArray[np.uint8]


def test_every_number_has_its_name(section: U8) -> None:
    high = np.ascontiguousarray(section[:128, :128])
    output = bicubic_up(bicubic_down(high, 8), 8)
    found = structure(output, high, 8)
    bands = [found[f"spectrum_{period}_px_db"] for period in (2, 4, 8, 16)]
    assert bands == band_errors_db(output, high).tolist()
    (h_mean, h_sd), (e_mean, e_sd) = stain_errors(output, high)
    assert found["grid_db"] == grid_db(output, high, 8)
    assert found["step_modulation"] == step_modulation(output, high, 8)
    assert (found["stain_h_mean"], found["stain_h_sd"]) == (h_mean, h_sd)
    assert (found["stain_e_mean"], found["stain_e_sd"]) == (e_mean, e_sd)


def test_all_have_headings_and_are_best_at_zero() -> None:
    assert set(further_metrics(STRUCTURE, "lite2")["structure"]) == set(STRUCTURE)
    assert column("grid_db", "lite2").best([-3.0, 0.5, -0.2]) == "-0.2"


@pytest.mark.parametrize(("side_px", "measured"), [(63, False), (64, True)])
def test_images_of_64_px_are_measurable(side_px: int, measured: bool) -> None:
    names = measurable([Size(300, 300), Size(90, side_px)], ["distance"], by_author=False)
    assert (set(STRUCTURE) <= set(names)) == measured
    assert "distance" in names


def results(scores: dict[str, dict[str, list[float]]]) -> Results:
    subjects = [Subject("1", "a"), Subject("2", "a")]
    methods = {4: {name: dict[str, object]() for name in scores}}
    protocol = {"headline_judge": ""}
    return Results(protocol, {}, methods, subjects, {4: scores}, summary(4, subjects, scores))


def test_the_table_has_means_with_signs_and_the_nearest_to_zero_in_bold() -> None:
    scores = {
        "bicubic": {"psnr_db": [20.0, 22.0], "grid_db": [0.4, 0.2], "stain_h_sd": [-0.3, -0.1]},
        "ours": {"psnr_db": [30.0, 32.0], "grid_db": [-4.0, -2.0], "stain_h_sd": [0.02, 0.04]},
    }
    lines = tables_md(results(scores)).splitlines()
    assert "| data | method | grid (dB) | H spread |" in lines
    assert "| a | bicubic | **+0.3** | -0.20 |" in lines
    assert "| a | ours | -3.0 | **+0.03** |" in lines


def test_without_structure_there_is_no_table() -> None:
    assert "Structure" not in tables_md(results({"bicubic": {"psnr_db": [20.0, 22.0]}}))
