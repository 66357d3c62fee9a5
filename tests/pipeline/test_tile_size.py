"""Which tiles a run takes, and what it remembers for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from slidesr.pipeline.tile_size import Tuner, remember, remembered


def measured(tuner: Tuner, rates: dict[int, float], tiles: int) -> list[int]:
    """The sides that a tuner wants on a machine of such rates."""
    wanted = []
    for _ in range(tiles):
        wanted.append(tuner.side_px)
        tuner.note(wanted[-1], wanted[-1] ** 2 / rates[wanted[-1]])
    return wanted


@pytest.mark.parametrize("best", [256, 512, 1024])
def test_every_side_is_tried_twice_and_the_fastest_is_kept(best: int) -> None:
    rates = {side: 2.0 if side == best else 1.0 for side in (256, 512, 1024)}
    wanted = measured(Tuner.up_to(1024), rates, 9)
    assert wanted == [1024, 1024, 512, 512, 256, 256, best, best, best]


def test_the_first_try_may_be_slow() -> None:
    tuner = Tuner([512, 256])
    for seconds in (9.0, 1.0):
        tuner.note(512, seconds)
    for seconds in (1.0, 0.5):
        tuner.note(256, seconds)
    assert tuner.side_px == 512


def test_what_is_known_is_not_tried_again() -> None:
    assert measured(Tuner.up_to(512, {512: 1.0, 256: 3.0}), {256: 3.0}, 2) == [256, 256]
    assert Tuner.up_to(512, {512: 5.0}).side_px == 256  # one that is not known


def test_sides_of_no_interest_are_not_noted() -> None:
    tuner = Tuner([512])
    tuner.note(96, 1.0)
    assert tuner.rates == {}


def test_a_run_remembers_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert remembered("a") == {}
    remember("a", {512: 2.5})
    remember("b", {512: 1.0})
    remember("a", {256: 3.5})
    assert remembered("a") == {512: 2.5, 256: 3.5}
    assert remembered("b") == {512: 1.0}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"x": 2}}', "\x00"])
def test_a_damaged_memory_is_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "slidesr").mkdir()
    (tmp_path / "slidesr" / "tiles.json").write_text(text)
    assert remembered("a") == {}
    remember("a", {256: 1.0})
    assert remembered("a") == {256: 1.0}


def test_where_nothing_can_be_noted_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember("a", {256: 1.0})
    assert remembered("a") == {}
