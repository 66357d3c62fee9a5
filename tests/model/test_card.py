"""The model card and its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slidesr.model.card import card
from slidesr.model.score_table import headline_judge, headline_metrics, score_table
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import GeneratorSpec

TINY = GeneratorSpec(2, "weight", 8, bicubic_skip=True, channels=8, blocks=1)


def values(psnr_db: float, ssim: float, ms_ssim: float, qilv: float) -> dict[str, float]:
    return {"psnr_db": psnr_db, "ssim": ssim, "ms_ssim": ms_ssim, "qilv": qilv}


def test_the_table_marks_the_best_of_each_data_set() -> None:
    table = score_table(
        {
            "a": {
                "bicubic": values(20.5, 0.5, 0.75, 0.25),
                "ours": values(21.25, 0.625, 0.5, 0.25),
            },
            "b": {"bicubic": values(9, 0.1, 0.1, 0.1)},
        },
        ["psnr_db", "ssim", "ms_ssim", "qilv"],
        "",
        {},
    )
    assert table.splitlines() == [
        "| data | method | PSNR (dB) | SSIM | MS-SSIM | QILV |",
        "|---|---|---|---|---|---|",
        "| a | bicubic | 20.50 | 0.5000 | **0.7500** | **0.2500** |",
        "| a | ours | **21.25** | **0.6250** | 0.5000 | **0.2500** |",
        "| b | bicubic | **9.00** | **0.1000** | **0.1000** | **0.1000** |",
    ]


def test_what_its_own_loss_judges_is_marked_and_not_the_best() -> None:
    judged = {"distance_lite2": 2.0, "fid_lite2": 30.0, "distance_vgg19": 1.0}
    table = score_table(
        {"a": {"bicubic": judged, "ours": {name: value / 2 for name, value in judged.items()}}},
        ["distance_lite2", "fid_lite2", "distance_vgg19"],
        "lite2",
        {"ours": ["VGG19"]},
    )
    assert table.splitlines() == [
        "| data | method | perceptual distance | FID | VGG19 distance |",
        "|---|---|---|---|---|",
        "| a | bicubic | 2.000 | 30.00 | **1.000** |",
        "| a | ours | **1.000** | **15.00** | 0.500\N{DAGGER} |",
    ]


def test_the_headline_is_of_a_judge_that_taught_nobody() -> None:
    judges = ["encoder", "vgg19", "lite2", "resnet50"]
    assert headline_judge(judges, []) == "lite2"
    assert headline_judge(judges, ["EfficientNet-Lite2"]) == "vgg19"
    assert headline_judge(judges, ["EfficientNet-Lite2", "VGG19"]) == "resnet50"
    assert headline_judge(["encoder"], []) == ""
    assert headline_metrics(
        ["kid_lite2", "distance_encoder", "psnr_db", "mse", "distance_lite2", "unknown"], "lite2"
    ) == ["psnr_db", "distance_lite2", "kid_lite2"]


@pytest.mark.parametrize(
    ("network", "judge"),
    [("histology encoder", "EfficientNet-Lite2"), ("EfficientNet-Lite2", "VGG19")],
)
def test_a_card_says_which_judge_made_its_columns(
    network: str, judge: str, model_spec: Callable[[GeneratorSpec], ModelSpec]
) -> None:
    scores = {"psnr_db": 20.5, "distance_lite2": 1.5, "distance_vgg19": 2.5, "distance_encoder": 3}
    spec = model_spec(TINY)
    stage = replace(spec.stages[-1], loss_networks=(network,))
    spec = replace(spec, stages=(*spec.stages[:-1], stage), scores={"a": {"tiny": scores}})
    text = card(spec, "0123abcd")
    shown = "1.500" if judge == "EfficientNet-Lite2" else "2.500"
    assert "| data | method | PSNR (dB) | perceptual distance |\n" in text
    assert f"| a | tiny | **20.50** | **{shown}** |" in text
    assert f"are by {judge}" in text


def test_the_card_holds_what_the_header_says(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
) -> None:
    text = card(model_spec(TINY), "0123abcd")
    for fact in (
        "# tiny\n",
        "x2,\nweight-norm variant, fidelity stage",
        "8 channels, 1 wide blocks",
        "windows of 8 low-resolution pixels",
        "`0123abcd`",
        "| licence | CC0 |",
        "4,096 patches, 10 min, in 2 runs",
        "fidelity stage, perceptual loss by a network; 8 channels",
        "| before | random weights | 4,000 | 10 min | a device | `000000000000` |",
        "| tiny | before | 96 | 0 min | a test | not kept |",
        "| sum | | 4,096 | 10 min | | |",
        "0.92-2 um per pixel",
        "**Not for diagnosis.**",
        "- made up: CC0",
        '"loss": "l1"',
        "| a | bicubic | **20.50** |",
    ):
        assert fact in text
    assert '"loss": "l2"' not in text  # an earlier run's recipe is in the header alone
    assert "without its critic" not in text


def test_the_card_says_what_an_ablation_leaves_out(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
) -> None:
    spec = model_spec(TINY)
    own = replace(spec.stages[-1], recipe={"ablates": "tiny-gan"})
    text = card(replace(spec, stages=(spec.stages[0], own)), "0123abcd")
    assert "repeats `tiny-gan` without its critic" in text


def test_a_card_says_that_the_data_are_not_stated() -> None:
    bare = ModelSpec("bare", TINY, "fidelity", (0.9, 2.0), "CC0")
    assert card(bare, "0123abcd").count("- not stated") == 2  # data, training


@pytest.mark.parametrize(
    ("data", "compressed", "told"),
    [
        ({}, False, "bicubic reductions of scans; JPEG-compressed input is outside too"),
        ({"jpeg_share": 0.33}, True, "scans, 33% of them compressed by JPEG as slides are."),
        (
            {"degradation": "scanner", "jpeg_share": 0.5, "jpeg2000_share": 0.35},
            True,
            "a scanner, 50% of them compressed by JPEG and 35% by JPEG 2000 as slides are.",
        ),
        ({"degradation": "levels"}, True, "the next pyramid level of the slides, as it is stored."),
    ],
    ids=str,
)
def test_a_card_says_what_the_network_has_seen(
    data: dict[str, Any],
    compressed: bool,
    told: str,
    model_spec: Callable[[GeneratorSpec], ModelSpec],
) -> None:
    spec = model_spec(TINY)
    stage = replace(spec.stages[-1], recipe=spec.recipe | {"data": data})
    spec = replace(spec, compressed_inputs=compressed, stages=(*spec.stages[:-1], stage))
    text = card(spec, "0" * 64)
    assert told in text
    assert ("`--degradation scanner`" in text) == (data.get("degradation") == "scanner")
