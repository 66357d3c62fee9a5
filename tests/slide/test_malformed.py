"""Broken and hostile files: one line each, the right exit code, nothing left, and in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from malformed import Case, Runner, Verdict, make_cases

_PER_FAMILY = 2


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return list(make_cases(tmp_path_factory.mktemp("cases")))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("run")) as run:
        yield run


def test_there_are_over_300_and_all_are_different(cases: list[Case]) -> None:
    assert len({(case.name, case.option) for case in cases}) == len(cases) > 300


def test_a_sample_of_each_family_ends_cleanly(cases: list[Case], run: Runner) -> None:
    """Two of each; `make soak` runs all of them, twenty minutes long."""
    families: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        families[case.family].append(case)
    problems = {}
    for family in families.values():
        for case in family[:: -(-len(family) // _PER_FAMILY)]:
            verdict = run(case, "all" if len(case.name) % 2 else "auto")
            problems[case.name] = verdict.problems
    assert len(problems) >= 2 * len(families)
    assert {name: found for name, found in problems.items() if found} == {}


def test_a_sound_slide_is_done(run: Runner, tmp_path: Path) -> None:
    """Else a clean refusal of everything would pass."""
    from malformed.tiff_files import bases

    for name, data in bases().items():
        (tmp_path / f"{name}.tif").write_bytes(data)
        verdict = run(Case("sound", tmp_path / f"{name}.tif"), "all")
        assert (verdict.exit_code, verdict.problems) == (0, [])
        assert verdict.left == ("out.ome.tif",)


def test_a_bad_end_is_seen() -> None:
    clean = Verdict(2, 1.0, 1 << 20, "", "slidesr: a.tif: broken\n", (), executed=False)
    assert clean.problems == []
    for change in (
        {"exit_code": -11},
        {"exit_code": 5},
        {"seconds": 61.0},
        {"peak_bytes": 2 << 30},
        {"err": ""},
        {"err": "slidesr: a\nslidesr: b\n"},
        {"err": "Traceback (most recent call last)\nslidesr: a\n"},
        {"err": "slidesr: \x1b[31m\n"},
        {"left": ("out.ome.tif",)},
        {"executed": True},
    ):
        assert Verdict(**(vars(clean) | change)).problems
