"""`slidesr doctor`: what it says of this machine, and of one where something is broken."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slidesr.api import environment
from slidesr.cli import run

Told = Callable[[], dict[str, Any]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs `slidesr doctor --json`; its exit code is under "code"."""

    def ask() -> dict[str, Any]:
        code = run(["doctor", "--json"])
        facts: dict[str, Any] = json.loads(capsys.readouterr().out)
        return facts | {"code": code}

    return ask


def test_this_machine_can_work(told: Told) -> None:
    facts = told()
    assert facts["code"] == 0
    assert facts["problems"] == []
    assert {each["name"] for each in facts["packages"]} >= {*environment.PACKAGES, "dask"}
    assert facts["memory_bytes"] > 10**8
    assert facts["free_disk_bytes"] > 0
    assert "wa-srgan-x4" in facts["models"]
    assert facts["cache"].endswith("slidesr")
    outcomes = {each["by"].split()[0]: each["outcome"] for each in facts["readers"]}
    assert outcomes["tifffile"] == outcomes["OpenSlide"] == "ok"
    assert {"libvips", "Bio-Formats"} <= set(outcomes)  # there or not, they are told


def test_people_get_a_table_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    shown = capsys.readouterr()
    assert "torch" in shown.out
    assert "slidesr can work here" in shown.err


def test_a_package_that_does_not_import_is_a_problem_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _break(monkeypatch, "torch")
    assert run(["doctor"]) == 1
    lines = capsys.readouterr().err.splitlines()
    problems = [line for line in lines if line.startswith("problem: ")]
    assert len(problems) == 1
    assert "does not import: libcudart.so: cannot open" in problems[0]


def test_an_optional_package_that_is_missing_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    monkeypatch.setattr(environment, "_OPTIONAL", {"no-such-package": ("nothing", "1", "2")})
    facts = told()
    assert facts["code"] == 0
    assert not any("no-such-package" in each for each in facts["warnings"])


def test_what_was_not_tested_is_a_warning(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    monkeypatch.setitem(environment.PACKAGES, "numpy", ("numpy", "99.0", "99.1"))
    monkeypatch.setattr(environment, "_LEAST_MEMORY", 10**18)
    facts = told()
    assert facts["code"] == 0
    assert any("older than 99.0" in each for each in facts["warnings"])
    assert any("GB of memory" in each for each in facts["warnings"])


def test_missing_models_are_a_problem(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    monkeypatch.setattr("slidesr.model.weights.list_models", list)
    facts = told()
    assert facts["code"] == 1
    assert "models are missing" in facts["problems"][0]


def test_the_oldest_versions_are_those_that_the_package_asks_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = dict(each.split(">=") for each in project["dependencies"])
    oldest = {name: oldest for name, (_, oldest, _) in environment.PACKAGES.items()}
    assert oldest == {name: asked[name] for name in oldest}


def test_help_does_not_load_torch() -> None:
    code = "import sys; from slidesr.cli import run; run(['doctor', '--help']); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Ends with exit code 1" in shown.stdout
    assert "torch" not in shown.stdout.split()


def _break(patch: pytest.MonkeyPatch, name: str) -> None:
    real = importlib.import_module

    def imported(module: str) -> ModuleType:
        if module == name:
            raise OSError("libcudart.so: cannot open")
        return real(module)

    patch.setattr(environment, "import_module", imported)
