"""The model card and its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from slidesr.model.card import card, score_table
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
        }
    )
    assert table.splitlines() == [
        "| data | method | PSNR (dB) | SSIM | MS-SSIM | QILV |",
        "|---|---|---|---|---|---|",
        "| a | bicubic | 20.50 | 0.5000 | **0.7500** | **0.2500** |",
        "| a | ours | **21.25** | **0.6250** | 0.5000 | **0.2500** |",
        "| b | bicubic | **9.00** | **0.1000** | **0.1000** | **0.1000** |",
    ]


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
