"""What `slidesr train` ends with: a model file that explains itself, from every shipped recipe."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.data import immunohistochemistry
from support.training import RECIPE, run_alone, same, sources_in, tiny_encoder, write_toml

from slidesr.cli import run
from slidesr.errors import RefusedError
from slidesr.imaging.metrics import psnr_db
from slidesr.imaging.resample import bicubic_down
from slidesr.model.card import card, write_model
from slidesr.model.model import load_model
from slidesr.model.weights import read_model, read_spec, save_model
from slidesr.nets.generator import Generator
from slidesr.train.checkpoint import Reached
from slidesr.train.header import Origin, header_for, terms_of
from slidesr.train.loop import Sources, Trained
from slidesr.train.recipe import (
    Recipe,
    find_recipe,
    recipe_as_dict,
    recipe_from_toml,
)

U8 = NDArray[np.uint8]
ORIGIN = Origin(RECIPE, {}, None)
DONE = Reached(60, 3.6, 60, cooling=True)
RECIPES = sorted((Path(__file__).parents[2] / "docs/recipes").glob("*.toml"))
DATA_SETS = ("breakhis_400x", "camelyon16_dldp", "tcga_lgg_40x")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return sources_in(tmp_path_factory.mktemp("training"), side_px=164)


@pytest.fixture(scope="module")
def trained(sources: Sources) -> Trained:
    return run_alone(RECIPE, sources)


def test_a_finished_run_becomes_a_model_with_its_card(
    trained: Trained, sources: Sources, tmp_path: Path, section: U8
) -> None:
    scores = {"a": {"bicubic": {"psnr_db": 20.5, "ssim": 0.5, "ms_ssim": 0.6, "qilv": 0.1}}}
    spec = trained.header
    path = write_model(tmp_path / "models", spec, scores, trained.generator)
    assert path == tmp_path / "models/tiny.safetensors"
    model = load_model(str(path))
    assert replace(model.spec, stages=()) == replace(spec, scores=scores, stages=())
    (stage,) = model.spec.stages
    assert (stage.name, stage.start, stage.patches) == ("tiny", "", 60)
    assert 0 <= stage.seconds < 600
    assert "CPU threads" in stage.device
    assert model.spec.trained_um_per_px == (0.5, 1.0)
    assert model.spec.recipe["optimizer"]["ema"] == 0.9
    assert (model.spec.stage, model.spec.compressed_inputs) == ("fidelity", False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = path.with_suffix(".md").read_text()
    assert text == card(model.spec, digest)
    for fact in (digest, "60 patches", "0.5-1 um per pixel", "20.50", "Not for diagnosis"):
        assert fact in text
    assert same(read_model(path)[1], trained.generator)  # so that the scores are those of the file
    high = section[400:448, 400:448]
    assert psnr_db(model.enlarge(bicubic_down(high, 2)), high) > 20


def test_the_header_says_what_the_network_saw_and_felt() -> None:
    recipe = replace(
        RECIPE,
        loss=replace(RECIPE.loss, vgg19_weight=1.0),
        data=replace(RECIPE.data, jpeg_share=0.5),
    )
    spec = header_for(Origin(recipe, {}, None, ("VGG19",)), DONE)
    assert (spec.stage, spec.compressed_inputs) == ("gan", True)
    assert spec.loss_networks == ("VGG19",)
    assert spec.recipe == recipe_as_dict(recipe)


def test_the_terms_of_the_data_come_from_its_manifest(tmp_path: Path) -> None:
    assert terms_of(tmp_path) == {}
    (tmp_path / "manifest.csv").write_text(
        'file,dataset,licence\n1.png,A,CC0\n2.png,A,CC0\n3.png,"B, 2nd",CC BY 4.0\n'
    )
    terms = terms_of(tmp_path)
    assert terms == {"A": "CC0", "B, 2nd": "CC BY 4.0"}
    assert header_for(replace(ORIGIN, terms=terms), DONE).data == terms


@pytest.mark.parametrize(
    "content",
    [
        b"file,dataset\n1.png,A\n",
        b"file,licence\n1.png,CC0\n",
        b"\xff\xfe\n",
        b"dataset,licence\nA\n",
    ],
    ids=repr,
)
def test_a_manifest_without_terms_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(RefusedError, match=r"manifest\.csv") as caught:
        terms_of(tmp_path)
    assert "\n" not in str(caught.value)


# The command


def command(recipe: Path, sources: Sources, *more: str) -> list[str]:
    folders = ("--data", sources.data, "--valid", sources.valid, "-o", sources.out)
    return ["train", str(recipe), *map(str, folders), *more]


def shrunk(name: str, folder: Path) -> Recipe:
    """A shipped recipe, its networks and patches small and its run four steps long.

    A border loss needs patches of several attention windows.
    """
    recipe = recipe_from_toml(Recipe, find_recipe(name))
    window = min(4, recipe.generator.window)
    generator = replace(recipe.generator, channels=8, blocks=1, window=window)
    start, batch = "", min(2, recipe.batch)
    if recipe.start:
        start = str(folder / "start.safetensors")
        spec = replace(header_for(ORIGIN, DONE), generator=replace(generator, scale=4))
        save_model(Path(start), spec, Generator(spec.generator))
    return replace(
        recipe,
        generator=generator,
        critic=recipe.critic and replace(recipe.critic, channels=8, begins_after=2),
        data=replace(recipe.data, patch_px=8 * generator.scale),
        start=start,
        batch=batch,
        patches=4 * batch,
        validate_every=4 * batch,
    )


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Images in data sets of the names that the shipped recipes weigh."""
    folder = tmp_path_factory.mktemp("weighed")
    section = immunohistochemistry()  # type: ignore[no-untyped-call]
    images = {f"data/{name}/1.png": section[:200, :200] for name in DATA_SETS}
    for name, pixels in (images | {"valid/a/1.png": section[-176:, -176:]}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return Sources(folder / "data", folder / "valid", folder / "run")


@pytest.mark.parametrize(
    "name", [path.stem for path in RECIPES if "[encoder]" not in path.read_text()]
)
def test_every_shipped_recipe_ends_with_a_model(
    name: str,
    weighed: Sources,
    tmp_path: Path,
    section: U8,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = shrunk(name, tmp_path)
    encoder = tiny_encoder(tmp_path / "encoder.safetensors")
    monkeypatch.setattr("slidesr.train.objective.find_encoder", lambda: encoder)
    own = replace(weighed, out=tmp_path / "run")
    assert run(command(write_toml(tmp_path / "recipe.toml", recipe), own)) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == own.out / f"{recipe.name}.safetensors"
    model = load_model(str(path))
    scale = recipe.generator.scale
    assert model.spec.stages[-1].patches == recipe.patches
    assert set(model.spec.scores["a"]) == {"bicubic", "bicubic + back-projection", recipe.name}
    made = model.enlarge(section[:24, :20])
    assert made.shape == (24 * scale, 20 * scale, 3)
    assert made.std() > 0


def test_a_run_is_not_mixed_with_another(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused, gone on with, and shortened; the same command with --resume may come again."""
    own = replace(sources, out=tmp_path / "run")
    recipe = write_toml(tmp_path / "recipe.toml", RECIPE)
    short = command(recipe, own, "--patches", "6")
    assert run([*short, "--resume"]) == 0  # nothing there yet
    path = Path(capsys.readouterr().out.strip())
    first = path.read_bytes()
    assert load_model(str(path)).spec.patches == 6
    assert run(short) == 2
    line = capsys.readouterr().err
    assert "--resume" in line
    assert line.count("\n") == 1
    assert path.read_bytes() == first
    assert run([*short, "--resume"]) == 0
    assert run([*command(recipe, own), "--resume"]) == 2
    assert "begun to fall towards 6 patches" in capsys.readouterr().err


def test_a_start_on_the_command_line_counts(
    sources: Sources, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.safetensors"
    save_model(start, trained.header, trained.generator)
    own, recipe = replace(sources, out=tmp_path / "run"), tmp_path / "recipe.toml"
    options = ("--patches", "2", "--start", str(start))
    assert run(command(write_toml(recipe, RECIPE, generator__channels=16), own, *options)) == 2
    assert "start.safetensors: not the network" in capsys.readouterr().err
    assert not own.out.exists()
    assert run(command(write_toml(recipe, RECIPE, optimizer__warmup=10_000), own, *options)) == 0
    spec, generator = read_model(Path(capsys.readouterr().out.strip()))
    assert spec.recipe["start"] == spec.start == "tiny"  # the run that made it, not the file
    assert [stage.patches for stage in spec.stages] == [60, 2]
    assert spec.stages[0] == read_spec(start).stages[0]
    assert str(tmp_path) not in spec.to_json()
    kept, begun = generator.state_dict(), trained.generator.state_dict()
    assert all(torch.allclose(kept[name], begun[name], atol=1e-3) for name in begun)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--patches", "1"], "patches"),
        (["--patches", "0"], "patches"),
        (["--vgg19", "vgg19.pth"], "vgg19.pth"),
        (["--start", "nowhere"], "nowhere"),
        (["--valid", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_before_anything_is_written(
    more: list[str],
    says: str,
    sources: Sources,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = replace(sources, out=tmp_path / "run")
    recipe = write_toml(tmp_path / "recipe.toml", RECIPE)
    assert run(command(recipe, own, *more)) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told
    assert not own.out.exists()
