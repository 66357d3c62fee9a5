"""Networks of others in a comparison: super-resolution by spandrel, ResNeXt-101, VGG19."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from skimage.data import immunohistochemistry
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from torch import Tensor
from torchvision.models import resnext101_32x8d, vgg19

from slidesr.benchmark.methods import Wanted, methods_for, wanted_models
from slidesr.benchmark.results import Results
from slidesr.cli import run as run_cli
from slidesr.errors import RefusedError
from slidesr.imaging import metrics
from slidesr.imaging.resample import bicubic_down, bicubic_up
from slidesr.model.device import Engine
from slidesr.model.imagenet import resnext101_features

U8 = NDArray[np.uint8]
Save = Callable[[Path, dict[str, U8]], Path]


@pytest.fixture(scope="module")
def compact() -> torch.nn.Module:
    """Real-ESRGAN's compact network at x2, with random weights."""
    torch.manual_seed(0)
    network: torch.nn.Module = SRVGGNetCompact(num_feat=16, num_conv=2, upscale=2)
    return network.eval()


@pytest.fixture(scope="module", params=[".pth", ".safetensors"])
def weights(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    compact: torch.nn.Module,
) -> Path:
    if request.param == ".pth":
        return saved(compact, tmp_path_factory.mktemp("others"))
    path: Path = tmp_path_factory.mktemp("others") / "compact.safetensors"
    save_file(compact.state_dict(), path)
    return path


def saved(compact: torch.nn.Module, folder: Path) -> Path:
    """Weights as Real-ESRGAN publishes them."""
    torch.save({"params": compact.state_dict()}, folder / "compact.pth")
    return folder / "compact.pth"


def section() -> U8:
    image: U8 = immunohistochemistry()[:192, :208]  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(image)


def as_tensor(image: U8) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def test_a_network_of_others_is_a_method(weights: Path, compact: torch.nn.Module) -> None:
    (method,) = methods_for(wanted_models((str(weights),), (2, 4)), Engine(), 2)[3:]
    assert method.name == "compact"
    assert "Compact" in method.facts["kind"]
    low = section()
    with torch.inference_mode():
        expected = compact(as_tensor(low))[0].permute(1, 2, 0).clamp(0, 1).mul(255).round()
    assert np.array_equal(method.enlarge(low), expected.byte().numpy())


def test_they_know_neither_perception_nor_tolerance(weights: Path) -> None:
    for wanted in (Wanted(str(weights), perception=0.5), Wanted(str(weights), tolerance=1.0)):
        with pytest.raises(RefusedError, match="not a slidesr model"):
            methods_for([wanted], Engine(), 2)


def test_they_have_no_ensemble(weights: Path) -> None:
    wanted = wanted_models((str(weights), "wa-srgan-x2"), (2,), ensemble=True)
    assert [each.ensemble for each in wanted] == [False, False, True]
    with pytest.raises(RefusedError, match="for slidesr models, and none is compared"):
        wanted_models((str(weights),), (2,), ensemble=True)


def test_without_spandrel_they_are_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(RefusedError, match=r"pip install 'slidesr\[benchmark\]'"):
        wanted_models((str(weights),), (2,))


class _Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was_executed"),))


def test_a_hostile_file_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled, saved = tmp_path / "pickled.pth", tmp_path / "saved.pth"
    pickled.write_bytes(pickle.dumps(_Hostile(), protocol=2))
    torch.save({"params": _Hostile()}, saved)
    for path in (pickled, saved):
        with pytest.raises(RefusedError, match="does not recognise the network"):
            wanted_models((str(path),), (2,))
    assert not (tmp_path / "was_executed").exists()


@pytest.mark.parametrize("state", [{}, {"a": torch.zeros(3)}, [1, 2], "text"])
def test_what_is_no_such_network_is_refused(tmp_path: Path, state: object) -> None:
    path = tmp_path / "odd.pth"
    torch.save(state, path)
    with pytest.raises(RefusedError, match=r"odd\.pth: spandrel does not recognise"):
        wanted_models((str(path),), (2,))


# Judges


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    state = vgg19().features.state_dict(prefix="features.")
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def resnext_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("resnext") / "resnext.pth"
    torch.save(resnext101_32x8d().state_dict(), path)
    return path


@pytest.mark.slow
def test_resnext_gives_what_enters_its_last_layer(resnext_file: Path) -> None:
    image = section()
    network = resnext101_32x8d().eval()
    network.load_state_dict(torch.load(resnext_file))
    entered: list[Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        network((as_tensor(image) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        features = resnext101_features(resnext_file).eval()(as_tensor(image))
    assert features.shape == (1, 2048)
    np.testing.assert_allclose(features, entered[0], rtol=1e-4, atol=1e-5)


def test_other_weights_are_no_resnext(vgg19_file: Path) -> None:
    with pytest.raises(RefusedError, match=r"not ResNeXt-101 32x8d weights"):
        resnext101_features(vgg19_file)


@pytest.mark.slow
def test_the_command_uses_them_all(
    compact: torch.nn.Module,
    vgg19_file: Path,
    resnext_file: Path,
    tmp_path: Path,
    save_images: Save,
) -> None:
    image = section()
    names = [f"{label}/{slide}.png" for label in ("tumor", "normal") for slide in ("s1", "s2")]
    rows = ["dataset,slide,label,file"]
    rows += [f"d,{Path(name).stem},{Path(name).parent},{name}" for name in names]
    places = [image[:96, :96], image[96:, :96], image[:96, 96:192], image[96:, 96:192]]
    folder = save_images(tmp_path / "data", dict(zip(names, places, strict=True)))
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    arguments = ["benchmark", str(folder / "manifest.csv"), "--scale", "2", "--author-metrics"]
    arguments += ["--model", str(saved(compact, tmp_path)), "--vgg19", str(vgg19_file)]
    judged = [*arguments, "--downstream", "--resnext101", str(resnext_file), "-o", str(out)]
    judged += ["--seeds", "1"]
    assert run_cli(judged) == 0
    results = Results.read(out / "results.json")
    assert set(results.protocol["judges"]) == {"lite2", "encoder", "vgg19", "resnext101"}
    assert (results.classifier[-1].method, results.classifier[-1].n) == ("compact", 4)
    assert results.protocol["classifier"] == "ResNeXt-101 32x8d"
    bicubic = results.scores[2]["bicubic"]
    assert bicubic["distance_vgg19"][0] > 0
    made = bicubic_up(bicubic_down(places[0], 2), 2)
    index = [subject.name for subject in results.subjects].index(names[0])
    assert bicubic["qilv_author"][index] == pytest.approx(metrics.qilv_author(made, places[0]))
    running = {
        row.method: row.mean for row in results.summary if row.metric == "running_psnr_db_author"
    }
    assert running["bicubic"] == pytest.approx(metrics.running_psnr_db_author(bicubic["mse"]))
