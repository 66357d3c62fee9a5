"""The report: right numbers, nothing of a file name obeyed, and a real browser's opinion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from lxml import html
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select
from support.browser_driver import FLAGS

from slidesr.benchmark.judges.downstream import nuclei_rows
from slidesr.benchmark.model_pairs import Relation, pair_rows
from slidesr.benchmark.report import Case, write_report
from slidesr.benchmark.results import Results, ScoreRow, Subject
from slidesr.benchmark.statistics import summary
from slidesr.imaging.resample import bicubic_down, bicubic_up

U8 = NDArray[np.uint8]
HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}"
METHODS = ("nearest", "bicubic", "ours-fidelity", "ours")
SUBJECTS = [Subject(f"{i}.png", "a" if i < 8 else HOSTILE, f"slide{i % 3}") for i in range(10)]

PAIR = Relation("ours", "ours-fidelity", "GAN stage against its start", "the GAN stage", (3, 2))


@pytest.fixture(scope="module")
def results() -> Results:
    rng = np.random.default_rng(0)
    scores = {
        method: {
            "psnr_db": (25 + rank + rng.random(10)).tolist(),
            "ssim": (0.6 + 0.05 * rank + 0.01 * rng.random(10)).tolist(),
            "qilv": (0.1 + 0.1 * rank + 0.01 * rng.random(10)).tolist(),
            "distance_lite2": (3 - 0.5 * rank + 0.1 * rng.random(10)).tolist(),
            "distance_encoder": (2 - 0.5 * rank + 0.1 * rng.random(10)).tolist(),
            "mse": (90 - 9 * rank + rng.random(10)).tolist(),
            "grid_db": (2 - rank + 0.1 * rng.random(10)).tolist(),
        }
        for rank, method in enumerate(METHODS)
    }
    facts = [{"kind": "classical"}] * 2 + [
        {"kind": "WA-SRGAN", "stage": stage, "sha256": "ab" * 32} for stage in ("fidelity", "gan")
    ]
    return Results(
        protocol={
            "degradation": "bicubic",
            "jpeg_quality": None,
            "scales": [2],
            "images": 10,
            "judges": {"lite2": "ab" * 32, "encoder": "cd" * 32},
            "headline_judge": "lite2",
        },
        versions={"slidesr": "0.1", "torch": "2.6"},
        methods={2: dict(zip(METHODS, facts, strict=True))},
        subjects=SUBJECTS,
        scores={2: scores},
        summary=[
            *(
                replace(row, own_loss=(row.method, row.metric) == ("ours", "distance_encoder"))
                for row in summary(2, SUBJECTS, scores)
            ),
            *(
                ScoreRow(2, name, "a", "all", "image", "fid_lite2", 8, 9.5 - i)
                for i, name in enumerate(METHODS)
            ),
        ],
        nuclei=nuclei_rows(
            2, ["ours"], [Subject("0", "a")] * 8, [64**2] * 8, [np.ones((1, 3, 7))] * 8
        ),
        pairs=pair_rows(2, SUBJECTS, PAIR, scores, np.linspace(50, 59, 10)),
    )


@pytest.fixture(scope="module")
def cases(section: U8) -> list[Case]:
    high = section[:96, :96]
    low = bicubic_down(high, 2)
    made = {name: bicubic_up(low, 2) for name in METHODS} | {"ours": 255 - high}
    psnr_db = {name: 25.0 + rank for rank, name in enumerate(METHODS)}
    whys = ("worst", "typical", "best")
    return [Case(2, f"{why}{HOSTILE}.png", why, low, high, made, psnr_db) for why in whys]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, results: Results, cases: list[Case]) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, results, cases)
    return path


@pytest.fixture(scope="module")
def page(report: Path) -> html.HtmlElement:
    return html.fromstring(report.read_text())


def test_the_same_results_give_the_same_bytes(
    report: Path, results: Results, cases: list[Case], tmp_path: Path
) -> None:
    write_report(tmp_path / "again.html", results, cases)
    assert (tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_every_mean_stands_in_its_place_and_the_best_is_marked(
    page: html.HtmlElement, results: Results
) -> None:
    table = page.xpath("//section[@id='x2']//table")[0]
    heads = [cell.text.strip() for cell in table.xpath(".//thead/tr/th")]
    assert heads == ["method", "PSNR (dB)", "SSIM", "QILV", "perceptual distance", "FID"]
    for line, method in zip(table.xpath(".//tbody/tr"), METHODS, strict=True):
        assert line.xpath("./th")[0].text == method
        means = [cell.text.strip() for cell in line.xpath("./td")]
        scores = results.scores[2][method]
        expected = [
            np.mean(scores[name][:8]) for name in ("psnr_db", "ssim", "qilv", "distance_lite2")
        ]
        assert [float(text) for text in means[:4]] == pytest.approx(expected, abs=6e-3)
        marks = [cell.get("class") == "best" for cell in line.xpath("./td")]
        assert marks == [method == "ours"] * 5
        differs = [bool(cell.xpath("./sup")) for cell in line.xpath("./td")]
        assert differs == [method != "bicubic"] * 4 + [False]


def test_structure_has_its_own_table_and_the_nearest_to_zero_is_best(
    page: html.HtmlElement,
) -> None:
    headline = page.xpath("//section[@id='x2']//table")[0]
    assert "grid" not in headline.text_content()
    group = page.xpath("//section[@id='x2']/details[@class='group']")[-1]
    assert group.xpath("./summary")[0].text == "Structure"
    structure = group.xpath(".//table")[0]
    heads = [cell.text_content().split() for cell in structure.xpath(".//thead/tr/th")]
    assert heads == [["method"], ["grid", "(dB)", "→0"]]
    cells = structure.xpath(".//tbody/tr/td")
    means = [float(cell.text.strip()) for cell in cells]
    assert means == pytest.approx([2.05, 1.05, 0.05, -0.95], abs=0.06)
    assert [cell.get("class") == "best" for cell in cells] == [False, False, True, False]


def test_a_pair_of_models_is_judged_in_words_and_numbers(
    page: html.HtmlElement, results: Results
) -> None:
    (section,) = page.xpath("//section[@id='pairs']")
    texts = [" ".join(each.text_content().split()) for each in section.xpath("./p")]
    assert texts[1] == (
        "GAN stage against its start: the two outputs agree to 53.5 dB: the GAN stage has no"
        " visible effect (at most 57.0 dB)."
    )
    table = section.xpath(".//table")[0]
    assert [row.xpath("./th")[0].text for row in table.xpath(".//tbody/tr")] == [
        *("PSNR (dB)", "SSIM", "QILV", "perceptual distance", "encoder distance", "MSE"),
        "grid (dB)",
    ]
    psnr = results.scores[2]
    expected = np.mean(np.subtract(psnr["ours"]["psnr_db"], psnr["ours-fidelity"]["psnr_db"])[:8])
    assert float(table.xpath(".//tbody/tr/td")[0].text) == pytest.approx(expected, abs=6e-3)


def test_other_metrics_stand_apart_and_the_own_loss_is_marked(page: html.HtmlElement) -> None:
    encoder, other, _ = page.xpath("//section[@id='x2']/details[@class='group']")
    assert encoder.xpath("./summary")[0].text == "The loss network's own view"
    assert [cell.text.strip() for cell in encoder.xpath(".//thead/tr/th")[:2]] == [
        "method",
        "encoder distance",
    ]
    *_, fidelity, ours = encoder.xpath(".//table")[0].xpath(".//tbody/tr/td")
    assert ours.xpath("./span[@class='own']")[0].text == "\N{DAGGER}"
    assert (ours.get("class"), fidelity.get("class")) == (None, "best")
    assert [cell.text.strip() for cell in other.xpath(".//thead/tr/th")[:2]] == ["method", "MSE"]


def test_without_an_independent_judge_nothing_is_drawn_with_one(
    results: Results, cases: list[Case], tmp_path: Path
) -> None:
    bare = replace(results, protocol=results.protocol | {"headline_judge": ""})
    write_report(tmp_path / "bare.html", bare, cases)
    page = html.fromstring((tmp_path / "bare.html").read_text())
    assert "There is no independent judge" in page.xpath("//header")[0].text_content()
    assert not page.xpath("//svg")
    assert len(page.xpath("//section[@id='x2']//*[@class='plot']")) == 3


def test_labels_slides_and_nuclei_have_their_tables(page: html.HtmlElement) -> None:
    captions = [" ".join(each.text.split()) for each in page.xpath("//caption")]
    assert "a, slide slide0, 3 images" in captions
    assert "a, mean of slides, 3 slides" in captions
    whole, by_size = page.xpath("//section[@id='nuclei']//table")
    heads = [cell.text for cell in whole.xpath(".//thead//th")]
    cells = [cell.text for cell in whole.xpath(".//tbody/tr/*")]
    found = dict(zip(heads, cells, strict=True))
    assert (found["method"], found["in high resolution"], found["recall"]) == (
        "ours",
        "24",
        "1.000",
    )
    assert found["lost per mm2"] == "unknown"  # the pixel size is
    assert len(by_size.xpath(".//tbody/tr/td")) == 9
    assert not page.xpath("//section[@id='classifier']")


def test_names_are_shown_and_not_obeyed(page: html.HtmlElement, report: Path) -> None:
    assert [each.text for each in page.xpath("//script")] == [page.xpath("//script")[-1].text]
    assert HOSTILE in page.text_content()
    assert "49" not in page.xpath("//figure[@class='case']/figcaption")[0].text_content()
    assert "http://" not in report.read_text()
    assert "https://" not in report.read_text()


def test_without_cases_and_other_tables_it_is_still_a_page(
    results: Results, tmp_path: Path
) -> None:
    write_report(tmp_path / "bare.html", replace(results, nuclei=[]), [])
    assert "nuclei" not in html.fromstring((tmp_path / "bare.html").read_text()).xpath(
        "//nav//text()"
    )


# In a browser


@pytest.fixture(scope="module")
def browser(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options, Service(driver))
    try:
        chrome.set_window_size(1280, 1000)
        chrome.get(report.as_uri())
        yield chrome
    finally:
        chrome.quit()


def shown(browser: webdriver.Chrome) -> U8:
    """The pixels of the first case's stage, as a browser draws them."""
    stage = browser.find_element(By.CSS_SELECTOR, ".stage")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    return np.array(Image.open(BytesIO(stage.screenshot_as_png)).convert("RGB"))


def slide_to(browser: webdriver.Chrome, value: int) -> None:
    knob = browser.find_element(By.CSS_SELECTOR, ".stage input")
    browser.execute_script(
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        knob,
        value,
    )


def choose(browser: webdriver.Chrome, side: str, name: str) -> None:
    Select(browser.find_element(By.CSS_SELECTOR, f"select.{side}")).select_by_visible_text(name)


def test_the_slider_moves_the_border_of_the_two_sides(
    browser: webdriver.Chrome, cases: list[Case]
) -> None:
    choose(browser, "left", "high resolution")
    choose(browser, "right", "ours")
    high, ours = cases[0].high.mean(), cases[0].outputs["ours"].mean()
    slide_to(browser, 100)
    assert shown(browser).mean() == pytest.approx(high, abs=3)
    slide_to(browser, 0)
    assert shown(browser).mean() == pytest.approx(ours, abs=3)
    slide_to(browser, 50)
    middle = shown(browser)
    half = middle.shape[1] // 2
    assert middle[:, : half - 3].mean() == pytest.approx(cases[0].high[:, :48].mean(), abs=3)
    assert middle[:, half + 3 :].mean() == pytest.approx(
        cases[0].outputs["ours"][:, 48:].mean(), abs=3
    )


def test_the_slider_obeys_the_keyboard(browser: webdriver.Chrome) -> None:
    slide_to(browser, 50)
    knob = browser.find_element(By.CSS_SELECTOR, ".stage input")
    knob.send_keys("\ue014")  # arrow right
    assert (
        browser.execute_script(
            "return document.querySelector('.stage').style.getPropertyValue('--at')"
        )
        == "51%"
    )


def test_the_difference_is_four_times_what_pixels_are_off(
    browser: webdriver.Chrome, cases: list[Case]
) -> None:
    choose(browser, "left", "bicubic")
    choose(browser, "right", "difference from high x4")
    slide_to(browser, 0)
    off = np.abs(cases[0].outputs["bicubic"].astype(int) - cases[0].high).mean(axis=(0, 1)) * 4
    assert shown(browser).mean(axis=(0, 1)) == pytest.approx(off, abs=2)
    choose(browser, "left", "high resolution")
    assert shown(browser).mean() < 1


def test_another_metric_shows_its_boxes(browser: webdriver.Chrome) -> None:
    plots = browser.find_elements(By.CSS_SELECTOR, "#x2 .plot")
    assert [plot.is_displayed() for plot in plots] == [True, False, False, False]
    Select(browser.find_element(By.CSS_SELECTOR, "select.metric")).select_by_visible_text("QILV")
    assert [plot.is_displayed() for plot in plots] == [False, False, True, False]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_never_scrolls_sideways(browser: webdriver.Chrome, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scroll, client = browser.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert scroll <= client <= width


def test_nothing_leaves_the_file_and_nobody_complains(browser: webdriver.Chrome) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"].startswith("file:")
    ]
    assert len([url for url in asked if url.startswith("file:")]) == 1  # itself
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert log(browser, "browser") == []


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = browser.execute("getLog", {"type": kind})["value"]
    return entries
