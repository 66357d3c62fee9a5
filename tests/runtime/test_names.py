"""Names beside an output: they fit, stay the same, and are those of no other output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesr.errors import RefusedError
from slidesr.runtime.names import beside, check_name, hidden_beside

ENDINGS = [".part", ".part.state", ".part.state.new", ".old"]
letters = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
names = st.text(letters, min_size=1).filter(lambda name: name not in (".", "..")) | st.builds(
    lambda letter, count: letter * count, st.sampled_from("aé€𝄞"), st.integers(1, 255)
)
fitting = names.filter(lambda name: len(name.encode()) <= 255)


@given(fitting, st.sampled_from(ENDINGS))
def test_every_name_fits_and_ends_as_it_should(name: str, ending: str) -> None:
    hidden = hidden_beside(Path("a") / name, ending)
    assert len(os.fsencode(hidden.name)) <= 255
    assert hidden.name.startswith(".")
    assert hidden.name.endswith(ending)
    assert hidden.parent == Path("a")
    assert len(os.fsencode(beside(Path(name), ".trace.json").name)) <= 255


@given(fitting, fitting)
def test_two_outputs_share_no_name(one: str, other: str) -> None:
    for ending in ENDINGS:
        same = hidden_beside(Path(one), ending) == hidden_beside(Path(other), ending)
        assert same == (one == other)


@given(fitting.filter(lambda name: len(name.encode()) < 240))
def test_a_name_of_usual_length_is_kept(name: str) -> None:
    assert hidden_beside(Path(name), ".part").name == f".{name}.part"
    assert hidden_beside(Path(name), ".part.state").name == f".{name}.part.state"


@pytest.mark.parametrize("letter", ["a", "é", "€"])
def test_the_longest_name_is_taken_and_a_longer_one_refused(tmp_path: Path, letter: str) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX") // len(letter.encode())
    check_name(tmp_path / (letter * most))
    with pytest.raises(RefusedError, match="too long"):
        check_name(tmp_path / (letter * (most + 1)))
    check_name(Path(f"s3://bucket/{letter * 999}.ome.zarr"))
