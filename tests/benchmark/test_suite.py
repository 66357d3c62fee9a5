"""The comparison of methods: each number against a direct computation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import immunohistochemistry

from slidesr.benchmark.cases import cases
from slidesr.benchmark.export import (
    _INTRO,
    refuse_cards,
    refuse_other_results,
    write_results,
)
from slidesr.benchmark.judges.classifier import ClassifierRecipe
from slidesr.benchmark.judges.nuclei import SIZES, find_nuclei
from slidesr.benchmark.judges.perceptual import find_judges
from slidesr.benchmark.judges.structure import STRUCTURE, structure
from slidesr.benchmark.methods import (
    Method,
    Wanted,
    classical,
    leading,
    methods_for,
    of_model,
    wanted_models,
)
from slidesr.benchmark.pairs import find_pairs
from slidesr.benchmark.results import Results, Store
from slidesr.benchmark.suite import Comparison, ComparisonOptions, compare, mean_scores
from slidesr.cli import run as run_cli
from slidesr.errors import BusyError, RefusedError
from slidesr.geometry import Box, Mpp
from slidesr.imaging import metrics
from slidesr.imaging.resample import back_projected, bicubic_down, bicubic_up, through_jpeg
from slidesr.model.card import write_model
from slidesr.model.device import Engine
from slidesr.model.model import Model
from slidesr.model.weights import (
    ModelSpec,
    find_encoder,
    list_models,
    models_folder,
    read_model,
    save_model,
    sha256_of,
)
from slidesr.nets.generator import Generator, GeneratorSpec
from slidesr.output.copy import write_plain
from slidesr.output.metadata import Metadata
from slidesr.slide.image_files import read_rgb

U8 = NDArray[np.uint8]
Save = Callable[[Path, Mapping[str, U8]], Path]

TINY = GeneratorSpec(2, "weight", 8, bicubic_skip=True, channels=8, blocks=1)
METHODS = ["nearest", "bicubic", "bicubic + back-projection", "tiny"]
JUDGED = ["distance_lite2", "texture_lite2", "distance_encoder"]
METRICS = [
    *("psnr_db", "psnr_y_db", "mse", "ssim", "ms_ssim", "qilv", *JUDGED, "consistency"),
    *STRUCTURE,
]


@pytest.fixture(scope="module")
def images(section: U8) -> dict[str, U8]:
    return {
        "a/1.png": section[:176, :176],
        "a/below/2.png": section[200:377, 100:275],  # odd sides: cut to the scale
        "b/1.png": section[300:476, 330:506],
    }


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, save_images: Save, images: dict[str, U8]
) -> Path:
    return save_images(tmp_path_factory.mktemp("images"), images)


@pytest.fixture(scope="module")
def model(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
    trained_looking: Callable[[GeneratorSpec], Generator],
) -> Model:
    return Model(model_spec(TINY), trained_looking(TINY), "")


@pytest.fixture(scope="module")
def comparison(folder: Path, model: Model) -> Comparison:
    return Comparison(
        find_pairs(folder),
        lambda scale: [*classical(scale), of_model(model)],
        ComparisonOptions((2,)),
    )


def run(
    comparison: Comparison,
    output: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    with Store(output, comparison.identity()) as store:
        results = compare(comparison, store, report)
        write_results(output, results, cases(comparison, results))
        store.discard()
    return results


def files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def results(comparison: Comparison, output: Path) -> Results:
    return run(comparison, output)


def cut(image: U8, scale: int) -> U8:
    return np.ascontiguousarray(
        image[: len(image) // scale * scale, : image.shape[1] // scale * scale]
    )


def test_every_number_is_that_of_its_image(
    results: Results, images: dict[str, U8], model: Model
) -> None:
    enlarge: dict[str, Callable[[U8], U8]] = {
        "nearest": lambda low: low.repeat(2, 0).repeat(2, 1),
        "bicubic": lambda low: bicubic_up(low, 2),
        "bicubic + back-projection": lambda low: back_projected(low, 2),
        "tiny": model.enlarge,
    }
    judges = find_judges()
    assert [subject.name for subject in results.subjects] == list(images)
    assert list(results.scores[2]) == METHODS
    for method, by_metric in results.scores[2].items():
        assert list(by_metric) == METRICS
        for index, image in enumerate(images.values()):
            high = cut(image, 2)
            low = bicubic_down(high, 2)
            made = enlarge[method](low)
            expected = {
                "psnr_db": metrics.psnr_db(made, high),
                "psnr_y_db": metrics.psnr_y_db(made, high),
                "mse": metrics.mse(made, high),
                "ssim": metrics.ssim(made, high),
                "ms_ssim": metrics.ms_ssim(made, high),
                "qilv": metrics.qilv(made, high),
                "consistency": metrics.mean_absolute(bicubic_down(made, 2), low),
                **structure(made, high, 2),
            }
            for judge in judges:
                scores = judge.verdict(high, [made]).scores
                judged = {name: by_metric[name][index] for name in judge.image_metrics}
                assert judged == pytest.approx({name: scores[name][0] for name in judged}, 1e-4)
            numbers = {name: by_metric[name][index] for name in expected}
            assert numbers == pytest.approx(expected, rel=1e-6)


def test_the_summary_is_the_mean_over_the_images_of_a_data_set(results: Results) -> None:
    found = {(row.data, row.method, row.metric): row for row in results.summary}
    for method, by_metric in results.scores[2].items():
        for metric, values in by_metric.items():
            assert found["a", method, metric].mean == pytest.approx(np.mean(values[:2]))
            assert found["a", method, metric].n == 2
            assert found["b", method, metric].mean == pytest.approx(values[2])


def test_distances_of_sets_are_those_of_all_tiles(results: Results, images: dict[str, U8]) -> None:
    highs = [cut(images[name], 2) for name in ("a/1.png", "a/below/2.png")]
    made = [bicubic_up(bicubic_down(high, 2), 2) for high in highs]
    found = {
        row.metric: row.mean
        for row in results.summary
        if (row.data, row.method, row.part) == ("a", "bicubic", "all")
    }
    for judge in find_judges():
        pairs = zip(highs, made, strict=True)
        tiles = [judge.verdict(high, [output]).embeddings for high, output in pairs]
        true, ours = (np.concatenate([each[i] for each in tiles]) for i in (0, 1))
        expected = judge.of_sets(ours.astype(np.float64), true.astype(np.float64))
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_progress_is_told_image_by_image(comparison: Comparison, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run(comparison, tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_second_run_writes_the_same_bytes(
    comparison: Comparison, results: Results, output: Path, tmp_path: Path
) -> None:
    assert results
    run(comparison, tmp_path)
    assert files(tmp_path) == files(output)
    assert set(files(output)) == {
        "results.json",
        "scores.csv",
        "summary.csv",
        "pairs.csv",
        "tables.md",
        "report.html",
    }


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(
    comparison: Comparison, results: Results, output: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(comparison, tmp_path, stop)
    told: list[int] = []
    run(comparison, tmp_path, lambda done, total: told.append(done))
    assert told == [2, 3]
    assert files(tmp_path) == files(output)


def test_another_comparison_does_not_go_on_with_what_one_left(
    comparison: Comparison, tmp_path: Path
) -> None:
    Store(tmp_path, comparison.identity()).close()
    other = replace(comparison, options=ComparisonOptions((2,), jpeg_quality=50))
    with pytest.raises(RefusedError, match="unfinished comparison with other options"):
        Store(tmp_path, other.identity())
    Store(tmp_path, comparison.identity()).close()


def test_another_process_is_kept_out(comparison: Comparison, tmp_path: Path) -> None:
    with Store(tmp_path, {}), pytest.raises(BusyError):
        Store(tmp_path, {})


def test_other_results_are_not_replaced_unasked(
    comparison: Comparison, results: Results, output: Path
) -> None:
    refuse_other_results(output, results.protocol)
    other = replace(comparison, options=ComparisonOptions((2,), jpeg_quality=50))
    with pytest.raises(RefusedError, match="--overwrite"):
        refuse_other_results(output, other.protocol)


@pytest.mark.parametrize("lost", ["pairs", "protocol"])
def test_results_of_another_version_are_not_replaced_unasked(
    results: Results, tmp_path: Path, lost: str
) -> None:
    table = json.loads(results.to_json())
    del table[lost]
    (tmp_path / "results.json").write_text(json.dumps(table))
    with pytest.raises(RefusedError, match=r"of another version of slidesr.*--overwrite"):
        refuse_other_results(tmp_path, results.protocol)


def test_results_come_back_from_their_file(results: Results, output: Path) -> None:
    assert Results.read(output / "results.json") == results
    json.loads((output / "results.json").read_text(), parse_constant=pytest.fail)


def test_jpeg_and_scanner_change_what_the_methods_are_given(
    comparison: Comparison, images: dict[str, U8]
) -> None:
    high = cut(images["a/1.png"], 2)
    first, *_ = comparison.pairs

    def low(options: ComparisonOptions) -> U8:
        return replace(comparison, options=options).enlarged(2, [], first).low

    assert np.array_equal(
        low(ComparisonOptions((2,), jpeg_quality=40)), through_jpeg(bicubic_down(high, 2), 40)
    )
    scanned = low(ComparisonOptions((2,), "scanner"))
    assert np.array_equal(scanned, low(ComparisonOptions((2,), "scanner")))
    assert not np.array_equal(scanned, low(ComparisonOptions((2,), "scanner", seed=1)))
    off = np.abs(scanned.astype(int) - bicubic_down(high, 2)).mean()
    assert 0.5 < off < 20
    protocol = replace(comparison, options=ComparisonOptions((2,), "scanner")).protocol
    assert protocol["blur_px"] == [0.1, 0.6]
    assert "blur_px" not in comparison.protocol


@pytest.mark.parametrize(("height", "scale"), [(160, 2), (163, 4)])
def test_small_images_are_compared_without_ms_ssim(
    tmp_path: Path, save_images: Save, section: U8, height: int, scale: int
) -> None:
    """Images are cut to a multiple of the scale first."""
    folder = save_images(tmp_path, {"a.png": section[:height, :176]})
    found = mean_scores(
        Comparison(find_pairs(folder), classical, ComparisonOptions((scale,))),
        lambda done, total: None,
    )
    assert "ms_ssim" not in found[tmp_path.name]["bicubic"]
    assert found[tmp_path.name]["bicubic"]["ssim"] > 0.5


def test_images_too_small_for_the_metrics_are_refused(
    tmp_path: Path, save_images: Save, section: U8
) -> None:
    folder = save_images(tmp_path, {"small.png": section[:16, :16]})
    with pytest.raises(RefusedError, match=r"small\.png.*at least 64 px"):
        mean_scores(
            Comparison(find_pairs(folder), classical, ComparisonOptions((8,))),
            lambda done, total: None,
        )


def test_equal_images_count_as_100_db(tmp_path: Path, save_images: Save) -> None:
    folder = save_images(tmp_path, {"flat.png": np.full((176, 176, 3), 200, np.uint8)})
    comparison = Comparison(find_pairs(folder), classical, ComparisonOptions((2,)))
    found = mean_scores(comparison, lambda done, total: None)
    assert found[tmp_path.name]["bicubic"]["psnr_db"] == 100


# Methods


def test_all_shipped_models_are_compared_baselines_first() -> None:
    names = [wanted.name_or_path for wanted in wanted_models((), (4,))]
    of_x4 = [spec.name for _, spec in list_models() if spec.generator.scale == 4]
    assert sorted(names) == sorted(of_x4)
    assert names[:2] == ["a-srgan-x4", "srgan-x4"]
    order = ["wa-srgan-x4-slides", "wa-srgan-x4-fidelity", "wa-srgan-x4"]
    assert [name for name in names if name in order] == order


def test_a_perception_between_is_a_method_of_its_own() -> None:
    wanted = wanted_models(("wa-srgan-x4@0.5", "wa-srgan-x4"), (4,))
    methods = methods_for(wanted, Engine(), 4)
    assert [method.name for method in methods[3:]] == ["wa-srgan-x4, perception 0.5", "wa-srgan-x4"]
    low = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    assert not np.array_equal(methods[3].enlarge(low), methods[4].enlarge(low))


def test_consistent_models_are_methods_beside_the_plain_ones() -> None:
    wanted = wanted_models(("wa-srgan-x4",), (4,), tolerance=0.0)
    plain, mended = methods_for(wanted, Engine(), 4)[3:]
    assert (plain.name, mended.name) == ("wa-srgan-x4", "wa-srgan-x4, consistent")
    low = bicubic_down(immunohistochemistry()[:128, :128], 4)  # type: ignore[no-untyped-call]
    off = [
        metrics.mean_absolute(bicubic_down(method.enlarge(low), 4), low)
        for method in (plain, mended)
    ]
    assert off[1] < 0.5 < off[0]


def test_ensembles_are_methods_beside_single_passes() -> None:
    wanted = wanted_models(("srgan-x4",), (4,), tolerance=1.0, ensemble=True)
    methods = methods_for(wanted, Engine(), 4)[3:]
    assert [method.name for method in methods] == [
        "srgan-x4",
        "srgan-x4 + ensemble",
        "srgan-x4, consistent to 1",
        "srgan-x4 + ensemble, consistent to 1",
    ]
    assert [method.facts.get("ensemble") for method in methods[:2]] == [None, "8 passes"]
    image: U8 = immunohistochemistry()[:128, :128]  # type: ignore[no-untyped-call]
    low = bicubic_down(image, 4)
    single, ensemble = (metrics.psnr_db(method.enlarge(low), image) for method in methods[:2])
    assert ensemble > single


def test_models_are_used_at_their_own_scale() -> None:
    wanted = wanted_models(("wa-srgan-x2", "wa-srgan-x4"), (2, 4))
    assert [method.name for method in methods_for(wanted, Engine(), 2)][3:] == ["wa-srgan-x2"]


def test_a_model_of_no_scale_compared_is_refused() -> None:
    with pytest.raises(RefusedError, match="wa-srgan-x2 is x2, not among x4, x8"):
        wanted_models(("wa-srgan-x2",), (4, 8))


def test_one_model_twice_is_refused() -> None:
    with pytest.raises(RefusedError, match="two models are named wa-srgan-x4"):
        methods_for([Wanted("wa-srgan-x4")] * 2, Engine(), 4)


def test_fidelity_leads_and_else_the_last() -> None:
    def method(name: str, stage: str) -> Method:
        return Method(name, lambda low: low, {"stage": stage})

    many = [*classical(4), method("ours-fidelity", "fidelity"), method("ours", "gan")]
    assert leading(many).name == "ours-fidelity"
    assert leading(classical(4)).name == "bicubic + back-projection"


# Pairs of models


def test_related_models_are_compared_with_each_other(
    folder: Path, images: dict[str, U8], tmp_path: Path
) -> None:
    def brighter(low: U8) -> U8:
        return bicubic_up(low, 2) // 2 + 100

    def related(scale: int) -> list[Method]:
        def bicubic(low: U8) -> U8:
            return bicubic_up(low, scale)

        first = Method("first", bicubic, {"model": "first"})
        same = Method("same", bicubic, {"model": "same", "start": "first"})
        gan = Method("gan", brighter, {"model": "gan", "stage": "gan", "start": "same"})
        return [*classical(scale), first, same, gan]

    comparison = Comparison(find_pairs(folder), related, ComparisonOptions((2,)))
    results = run(comparison, tmp_path)
    assert Results.read(tmp_path / "results.json") == results
    of_a = [row for row in results.pairs if (row.data, row.metric) == ("a", "ssim")]
    assert [(row.method, row.other) for row in of_a] == [("same", "first"), ("gan", "same")]
    assert of_a[0].agreement_mean_db == 100
    assert of_a[0].difference == 0
    lows = [bicubic_down(cut(images[name], 2), 2) for name in ("a/1.png", "a/below/2.png")]
    expected = [metrics.psnr_db(brighter(low), bicubic_up(low, 2)) for low in lows]
    assert of_a[1].agreement_mean_db == pytest.approx(np.mean(expected))
    assert of_a[1].agreement_max_db == pytest.approx(max(expected))
    ssim = {name: results.scores[2][name]["ssim"][:2] for name in ("gan", "same")}
    assert of_a[1].difference == pytest.approx(np.mean(np.subtract(ssim["gan"], ssim["same"])))
    tables = (tmp_path / "tables.md").read_text()
    assert "## Structure" in tables
    assert "agree to 100.0 dB: the training from there has no visible effect" in tables
    assert (tmp_path / "pairs.csv").read_text().count("\n") == 1 + len(results.pairs)


# Cases


def test_cases_are_worst_typical_and_best(comparison: Comparison, results: Results) -> None:
    chosen = cases(comparison, results)
    gains = [case.psnr_db["tiny"] - case.psnr_db["bicubic"] for case in chosen]
    assert [case.why for case in chosen] == ["worst", "typical", "best"]
    assert gains == sorted(gains)
    assert {case.subject for case in chosen} == {subject.name for subject in results.subjects}
    for case in chosen:
        assert list(case.outputs) == METHODS
        high, width = case.high.shape[:2]
        assert case.low.shape == (high // 2, width // 2, 3)
        bicubic = bicubic_up(case.low, 2)[8:-8, 8:-8].astype(int)
        assert np.abs(bicubic - case.outputs["bicubic"][8:-8, 8:-8]).max() <= 1  # one place in all


# The command


@pytest.fixture(scope="module")
def weights(
    tmp_path_factory: pytest.TempPathFactory,
    model_spec: Callable[[GeneratorSpec], ModelSpec],
    trained_looking: Callable[[GeneratorSpec], Generator],
) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, model_spec(TINY), trained_looking(TINY))
    return str(path)


def test_the_command_compares_a_folder(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        run_cli(["benchmark", str(folder), "--scales", "2", "--model", weights, "-o", str(out)])
        == 0
    )
    said = capsys.readouterr().out
    assert "## x2" in said
    assert "| a | tiny |" in said
    results = Results.read(out / "results.json")
    assert list(results.scores[2]) == METHODS
    assert results.methods[2]["tiny"]["sha256"] == sha256_of(Path(weights))
    assert str(tmp_path) not in (out / "results.json").read_text()  # no place of this machine
    assert not (out / "unfinished").exists()


def test_the_command_cuts_patches_of_a_slide(section: U8, weights: str, tmp_path: Path) -> None:
    wide = np.tile(section, (2, 2, 1))
    slide = write_plain(
        tmp_path / "s.tif",
        Box(0, 0, 1024, 1024),
        lambda box: wide[box.slices],
        Metadata(Mpp(0.25, 0.25), 40.0, None),
    )
    out = tmp_path / "out"
    arguments = ["benchmark", str(slide), "--per-slide", "3", "--scale", "2", "--model", weights]
    assert run_cli([*arguments, "-o", str(out)]) == 0
    results = Results.read(out / "results.json")
    assert len(results.subjects) == 3
    assert {subject.slide for subject in results.subjects} == {"s"}
    assert {subject.um_per_px for subject in results.subjects} == {0.25}


def test_the_command_compares_true_pairs(
    folder: Path, images: dict[str, U8], weights: str, tmp_path: Path, save_images: Save
) -> None:
    even = {name: cut(image, 2) for name, image in images.items()}
    high = save_images(tmp_path / "high", even)
    low = save_images(tmp_path / "low", {name: image[::2, ::2] for name, image in even.items()})
    out = tmp_path / "out"
    arguments = ["benchmark", "--lr", str(low), "--hr", str(high), "--model", weights]
    assert run_cli([*arguments, "-o", str(out)]) == 0
    results = Results.read(out / "results.json")
    assert (results.protocol["scales"], results.protocol["degradation"]) == ([2], "own")
    made = bicubic_up(np.ascontiguousarray(even["a/1.png"][::2, ::2]), 2)
    assert results.scores[2]["bicubic"]["mse"][0] == pytest.approx(
        metrics.mse(made, even["a/1.png"])
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give DATA"),
        (["--lr", "FOLDER"], "Give DATA"),
        (["FOLDER", "--scales", "3"], "is not some of"),
        (["nowhere"], "no such file"),
        (["FOLDER", "--model", "wa-srgan-x4", "--scales", "2"], "is x4, not among x2"),
        (["FOLDER", "--model", "nothing"], "neither a file nor a shipped model"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str],
    said: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(folder) if text == "FOLDER" else text for text in arguments]
    assert run_cli(["benchmark", *given, "-o", str(tmp_path / "out")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "results.json").exists()


# Cards


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that ships the models of x2."""
    models = tmp_path / "checkout" / "models"
    models.mkdir(parents=True)
    for path in models_folder().glob("wa-srgan-x2*"):
        shutil.copy(path, models)
    shutil.copy(find_encoder(), models)
    readme = "before\n<!-- slidesr benchmark -->\n<!-- end -->\nafter\n"
    (models.parent / "README.md").write_text(readme)
    for module in ("model.weights", "api.comparison"):
        monkeypatch.setattr(f"slidesr.{module}.models_folder", lambda: models)
    return models.parent


def test_the_cards_of_the_compared_models_are_renewed(checkout: Path, folder: Path) -> None:
    before = {spec.name: spec for _, spec in list_models()}
    command = ["benchmark", str(folder), "--scales", "2", "--update-cards"]
    models = ["--model", "wa-srgan-x2", "--model", "wa-srgan-x2-fidelity"]
    assert run_cli([*command, *models, "-o", str(checkout / "out")]) == 0
    after = {spec.name: spec for _, spec in list_models()}
    baselines = {"bicubic", "bicubic + back-projection"}
    for name, own in (
        ("wa-srgan-x2", {"wa-srgan-x2", "wa-srgan-x2-fidelity"}),
        ("wa-srgan-x2-fidelity", {"wa-srgan-x2-fidelity"}),
    ):
        assert all(set(of) == baselines | own for of in after[name].scores.values())
        assert set(after[name].scores) != set(before[name].scores)
        assert after[name].stages == before[name].stages
    assert after["wa-srgan-x2-slides"] == before["wa-srgan-x2-slides"]
    shown = (checkout / "models" / "README.md").read_text()
    assert "| wa-srgan-x2-slides |" in shown
    assert all(f"| {data} | wa-srgan-x2 |" in shown for data in after["wa-srgan-x2"].scores)
    readme = (checkout / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "| x2 | [wa-srgan-x2](models/wa-srgan-x2.md) |" in readme


def test_a_scale_whose_weights_have_no_scores_yet_is_left_out(checkout: Path, folder: Path) -> None:
    for name in ("wa-srgan-x8-fidelity", "wa-srgan-x8"):
        spec, generator = read_model(models_folder() / f"{name}.safetensors")
        write_model(checkout / "models", replace(spec, scores={}), {}, generator)
    command = ["benchmark", str(folder), "--scales", "2", "--update-cards"]
    models = ["--model", "wa-srgan-x2", "--model", "wa-srgan-x2-fidelity"]
    assert run_cli([*command, *models, "-o", str(checkout / "out")]) == 0
    readme = (checkout / "README.md").read_text()
    assert "| x2 |" in readme
    assert "| x8 |" not in readme


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "wa-srgan-x2"], "the scores of wa-srgan-x2-fidelity"),
        (["--model", "wa-srgan-x2-fidelity", "--jpeg", "75"], "without JPEG"),
    ],
)
def test_cards_are_refused_what_they_would_not_show_truly(
    options: list[str],
    said: str,
    checkout: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {path: path.read_bytes() for path in (checkout / "models").iterdir()}
    command = ["benchmark", str(folder), "--scales", "2", "--update-cards", *options]
    assert run_cli([*command, "-o", str(checkout / "out")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in (checkout / "models").iterdir()} == files


def test_cards_are_refused_a_comparison_without_shipped_models(results: Results) -> None:
    protocol = results.protocol | {"degradation": "bicubic", "jpeg_quality": None}
    with pytest.raises(RefusedError, match="none is compared"):
        refuse_cards(results.methods[2], protocol)


def test_updating_the_cards_keeps_the_introduction_of_the_readme() -> None:
    readme = Path(__file__).parents[2] / "models" / "README.md"
    assert readme.read_text().partition("\n## ")[0] == _INTRO


# Downstream


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, section: U8, save_images: Save) -> Path:
    """Two slides of one data set, four tiles each."""
    tiles = {
        f"{label}/s{slide}-{i}.png": section[100 * slide : 100 * slide + 128, 90 * i : 90 * i + 128]
        for slide in (1, 2)
        for label, i in (("tumor", 0), ("tumor", 1), ("normal", 2), ("normal", 3))
    }
    folder = save_images(tmp_path_factory.mktemp("labelled"), tiles)
    rows = [f"d,{name},{Path(name).name[:2]},{Path(name).parent},0.5" for name in tiles]
    text = "dataset,file,slide,label,mpp\n" + "\n".join(rows) + "\n"
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


@pytest.fixture(scope="module")
def judged(labelled: Path) -> Comparison:
    return Comparison(
        find_pairs(labelled),
        classical,
        ComparisonOptions((2,), nuclei=True, classifier=True),
        recipe=ClassifierRecipe(seeds=2, epochs=1, batch=4),
    )


def test_nuclei_and_classifier_are_asked_of_every_method(
    judged: Comparison, tmp_path: Path
) -> None:
    results = run(judged, tmp_path / "out")
    methods = METHODS[:3]
    assert [row.method for row in results.classifier if row.metric == "auc"] == [
        "high resolution",
        "low resolution",
        *methods,
    ]
    assert {(row.n, row.part) for row in results.classifier} == {(8, "tumor or normal")}
    assert {row.value for row in results.classifier[:4] if row.metric == "agreement"} == {1}
    found = {(row.method, row.part, row.metric): row.value for row in results.nuclei}
    assert {key[0] for key in found} == set(methods)
    counts = [len(find_nuclei(read_rgb(pair.high), 0.5).centres) for pair in judged.pairs]
    mm2 = 8 * 128 * 128 * 0.5**2 / 1e6
    for method in methods:
        assert found[method, "all", "in_high"] == sum(counts) > 4
        for metric in ("in_high", "found", "invented_per_mm2", "lost_per_mm2"):
            parts = [found[method, size, metric] or 0 for size in SIZES]
            assert sum(parts) == pytest.approx(found[method, "all", metric])
        lost, recall = found[method, "all", "lost_per_mm2"], found[method, "all", "recall"]
        assert recall is not None
        assert lost == pytest.approx(sum(counts) * (1 - recall) / mm2)
    report = (tmp_path / "out" / "report.html").read_text()
    assert 'id="nuclei"' in report
    assert 'id="classifier"' in report
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "## Nuclei" in tables
    assert "| low resolution |" in tables


def test_classifiers_are_trained_only_for_what_is_missing(
    judged: Comparison, tmp_path: Path
) -> None:
    """What was judged before an interruption is not judged again, and the figures are the same."""
    whole = run(judged, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(judged), tmp_path / "out", stop)
    trained: list[tuple[int, int]] = []
    again = replace(judged)
    with Store(tmp_path / "out", again.identity()) as store:
        results = compare(
            again,
            store,
            lambda done, total: None,
            lambda done, total: trained.append((done, total)),
        )
    assert trained[-1] == (2, 2)  # of one slide left out, of two
    assert results.classifier == whole.classifier


def test_other_labels_are_another_comparison(
    judged: Comparison, labelled: Path, tmp_path: Path
) -> None:
    other = [
        replace(pair, subject=replace(pair.subject, slide=f"other {pair.subject.slide}"))
        for pair in find_pairs(labelled)
    ]
    assert replace(judged, labelled=other).identity() != judged.identity()
    more = replace(judged, recipe=replace(judged.recipe, seeds=3))
    assert more.protocol != judged.protocol
