"""The viewer: both slides in register, nobody else gets an answer, and a real browser's opinion."""

from __future__ import annotations

import http.client
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.browser_driver import browser, complaints
from support.models import tiny_generator
from support.slides import camelyon_style, tissue

from slidesr.cli import run
from slidesr.errors import RefusedError
from slidesr.geometry import Box
from slidesr.model.weights import save_model
from slidesr.output.copy import write_plain
from slidesr.output.metadata import Metadata
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import prepared
from slidesr.pipeline.run import upscale
from slidesr.slide import open_slide
from slidesr.view import Exhibit, Server, exhibit, export
from slidesr.view.tiles import Tiles

U8 = NDArray[np.uint8]
SIZE = Box(0, 0, 900, 700)
CROP = Box(100, 60, 400, 320)
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, and three results of it: whole, of a crop, of a coarser pixel size."""
    folder = tmp_path_factory.mktemp("view")
    image = tissue(SIZE.width, SIZE.height, seed=2)
    image[:200, 600:] = 243
    camelyon_style(folder / "before.tif", image, mpp=0.5)
    save_model(folder / "tiny.safetensors", *tiny_generator(scale=2))
    whole = Options(
        scale=2,
        model=str(folder / "tiny.safetensors"),
        tissue="all",
        device="cpu",
        precision="fp32",
    )
    others = {"whole": whole, "crop": replace(whole, crop=CROP), "coarse": replace(whole, mpp=0.8)}
    for name, options in others.items():
        with prepared(folder / "before.tif", folder / f"{name}.ome.tif", options) as job:
            upscale(job)
    return folder


@pytest.fixture
def shown(folder: Path) -> Iterator[Exhibit]:
    with exhibit([folder / "before.tif", folder / "whole.ome.tif"]) as shown:
        yield shown


@pytest.fixture
def server(shown: Exhibit) -> Iterator[Server]:
    with Server(shown) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield server
        server.stop()
        thread.join()


# What is shown


@pytest.mark.parametrize("name", ["whole", "crop", "coarse"])
@pytest.mark.parametrize("turned", [False, True])
def test_both_slides_lie_in_register(folder: Path, name: str, *, turned: bool) -> None:
    """A place of one is the same place of the other, whichever was named first."""
    paths = [folder / "before.tif", folder / f"{name}.ome.tif"]
    with exhibit(paths[::-1] if turned else paths) as shown:
        before, after = shown.placed
        assert (before.role, after.role) == ("before", "after")
        origin = {"whole": (0, 0), "crop": (100, 60), "coarse": (0, 0)}[name]
        extent = {"whole": 900, "crop": 400, "coarse": 900}[name]
        place = before.x + before.width * (origin[0] + extent * 0.5) / 900
        assert place == pytest.approx(0.5, abs=1e-3)
        down = before.y + before.width * origin[1] / 900
        assert down == pytest.approx(0, abs=1e-3)


def test_two_slides_that_know_nothing_of_each_other_lie_side_to_side(folder: Path) -> None:
    with exhibit([folder / "before.tif", folder / "before.tif"]) as shown:
        assert [(each.x, each.y, each.width) for each in shown.placed] == [(0, 0, 1)] * 2
        assert not shown.facts()["synthetic"]


def test_the_facts_tell_no_path(folder: Path, shown: Exhibit) -> None:
    facts = shown.facts()
    assert str(folder) not in json.dumps(facts)
    assert [image["name"] for image in facts["images"]] == ["before.tif", "whole.ome.tif"]
    assert facts["synthetic"]
    assert facts["um_per_unit"] == pytest.approx(0.25 * 1800)


def test_the_card_is_that_of_a_shipped_model(tmp_path: Path) -> None:
    for model, has_card in (
        ("wa-srgan-x4, perception 0.5", True),
        ("tiny", False),
        ("../README", False),
    ):
        told = Metadata(None, None, None, {"synthetic": "true", "model": model})
        path = write_plain(tmp_path / "a.tif", SIZE, grey, told)
        with exhibit([path]) as shown:
            assert (shown.facts()["card"] is not None) == has_card


def grey(box: Box) -> U8:
    return np.full((box.height, box.width, 3), 99, np.uint8)


@pytest.mark.parametrize("level", [0, 6, 8, 9, 10])
def test_tiles_are_the_slide(folder: Path, level: int) -> None:
    with open_slide(folder / "before.tif") as slide:
        tiles = Tiles(slide)
        assert tiles.last == 10
        size, shrink = tiles.size(level), 1 << (10 - level)
        whole = Image.fromarray(slide.frame().read(slide.size.box))
        expected = np.asarray(whole.resize((size.width, size.height), Image.Resampling.BOX))
        made = np.zeros_like(expected)
        for box in size.box.cells(512):
            jpeg = tiles.jpeg(level, box.x // 512, box.y // 512)
            assert jpeg is not None
            made[box.clipped(size.box).slices] = np.asarray(Image.open(io.BytesIO(jpeg)))
        difference = np.abs(made.astype(int) - expected)
        assert difference.mean() < 3, shrink
        assert tiles.jpeg(level, 99, 0) is None


def test_a_slide_without_a_pyramid_is_shown(tmp_path: Path) -> None:
    Image.fromarray(tissue(5000, 300)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        tiles = Tiles(slide)
        for level in range(tiles.last + 1):
            assert tiles.jpeg(level, 0, 0)


# Who gets an answer


def asked(
    server: Server, path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.port}")
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_the_page_and_its_parts_are_served(server: Server) -> None:
    token = f"/{server.token}/"
    status, page = asked(server, token)
    assert status == 200
    for name in re.findall(rb'(?:src|href)="([a-z.]+)"', page):
        assert asked(server, token + name.decode())[0] == 200
    for path in ("tiles/0/8/0_0.jpg", "tiles/1/11/3_2.jpg", "tissue.png"):
        status, content = asked(server, token + path)
        assert status == 200
        Image.open(io.BytesIO(content)).load()
    assert json.loads(asked(server, token + "pixel/0/700_10")[1]) == [243] * 3
    assert asked(server, token, method="HEAD") == (200, b"")
    assert asked(server, token, host=f"localhost:{server.port}")[0] == 200


HOSTILE_PATHS = (
    *("tiles/0/99/0_0.jpg", "tiles/9/8/0_0.jpg", "tiles/0/8/-1_0.jpg", "tiles/0/8/9999999_0.jpg"),
    *("tiles/0/8/0_0.png", "tiles/0/8/0_0.jpg/..", "tiles//0/8/0_0.jpg", "pixel/0/x_y", "a"),
    *(
        "pixel/0/99999999999_0",
        "view.html",
        "export.py",
        "openseadragon",
        "/etc/passwd",
        "//",
        "%00",
    ),
)
HOSTILE_HOSTS = ("", "evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "[::1]", "0.0.0.0:80")


def hostile_requests(token: str) -> Iterator[tuple[str, str | None, str]]:
    """Path, host and method of sixty requests that must not be answered."""
    for up in ("..", "%2e%2e", "..%2f", "....//", "..\\", "%5c..", "%c0%ae%c0%ae", ".%00."):
        for target in ("/etc/passwd", "view.html", "__init__.py"):
            yield f"/{token}/{up}/{target}", None, "GET"
    for path in HOSTILE_PATHS:
        yield f"/{token}/{path}", None, "GET"
    for path in ("/", "/index.html", f"/{token[:-1]}/", f"/{token}x/", "/x/tissue.png", "*"):
        yield path, None, "GET"
    for host in HOSTILE_HOSTS:
        yield f"/{token}/", host, "GET"
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"):
        yield f"/{token}/", None, method


def test_sixty_hostile_requests_get_nothing(server: Server) -> None:
    requests = list(hostile_requests(server.token))
    assert len(requests) >= 60
    for path, host, method in requests:
        status, content = asked(server, path, host, method)
        assert status in (403, 404, 501), (path, host, method)
        assert b"root:" not in content
        assert b"import" not in content
    assert asked(server, f"/{server.token}/")[0] == 200


def test_only_this_machine_is_listened_to(server: Server) -> None:
    assert server._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_refused(shown: Exhibit, server: Server) -> None:
    with pytest.raises(RefusedError, match=f"port {server.port} cannot be used"):
        Server(shown, server.port)


# In a browser


def wait_until(ready: Callable[[], Any], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.05)


LOADED = (
    "return left.world.getItemCount() === facts.images.length"
    " && facts.images.every((_, i) => left.world.getItemAt(i).getFullyLoaded())"
)


def screen(chrome: Any) -> U8:
    return np.asarray(Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB"))


def test_the_slider_uncovers_the_other_slide(server: Server) -> None:
    with browser(1200, 800) as chrome:
        chrome.get(server.url)
        wait_until(lambda: chrome.execute_script(LOADED))
        slider = chrome.find_element(By.ID, "slider")
        clips = []
        for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT):
            slider.send_keys(*[key] * 10)
            clips.append(chrome.execute_script("return left.world.getItemAt(1).getClip().x"))
        assert clips[0] > clips[1] > clips[2]
        assert screen(chrome).std() > 20
        for key, mode in (("2", "side"), ("3", "flicker"), ("1", "swipe")):
            chrome.find_element(By.TAG_NAME, "body").send_keys(key)
            assert chrome.execute_script("return stage.className") == mode
        assert complaints(chrome) == []


def test_layers_panels_and_measures(server: Server) -> None:
    with browser(1200, 800) as chrome:
        chrome.get(server.url)
        wait_until(lambda: chrome.execute_script(LOADED))
        before = screen(chrome)
        for key in "tgi?":
            chrome.find_element(By.TAG_NAME, "body").send_keys(key)
        wait_until(lambda: chrome.execute_script("return tissue !== null"))
        assert not np.array_equal(screen(chrome), before)
        said = chrome.find_element(By.ID, "panel").text
        assert "whole.ome.tif" in said
        assert "tiny" in said
        assert chrome.find_element(By.ID, "length").text.endswith(("µm", "mm"))
        assert chrome.find_element(By.ID, "zoom").text.endswith("\N{MULTIPLICATION SIGN}")
        script = "readOut(new OpenSeadragon.Point(0.9, 0.01))"
        chrome.execute_script(script)
        wait_until(lambda: "243 243 243" in chrome.find_element(By.ID, "place").text)
        assert complaints(chrome) == []


def test_a_phone_has_no_sideways_scrolling(server: Server) -> None:
    with browser(390, 844) as chrome:
        chrome.get(server.url)
        wait_until(lambda: chrome.execute_script(LOADED))
        wide = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert chrome.execute_script(wide)
        assert chrome.execute_script("return $('slider').firstElementChild.offsetWidth") >= 44


def test_an_export_opens_from_the_disk(folder: Path, shown: Exhibit, tmp_path: Path) -> None:
    page = tmp_path / "page"
    assert export(shown, page) == len(list(page.glob("*_files/*/*.jpg")))
    assert not list(tmp_path.glob(".*"))
    assert (page / "1.dzi").read_text().count("1800")
    with browser(1000, 700) as chrome:
        chrome.get((page / "index.html").as_uri())
        wait_until(lambda: chrome.execute_script(LOADED))
        assert screen(chrome).std() > 20
        assert complaints(chrome) == []
    with pytest.raises(RefusedError, match="exists already"):
        export(shown, page)
    export(shown, page, overwrite=True)
    with pytest.raises(RefusedError, match="exists already"):
        export(shown, folder, overwrite=True)  # a folder that is no export stays


def test_hostile_words_are_words(tmp_path: Path) -> None:
    told = Metadata(None, None, None, {"synthetic": "true", "model": HOSTILE, HOSTILE: HOSTILE})
    path = tmp_path / "<b>a.tif"
    write_plain(path, Box(0, 0, 300, 200), grey, told)
    with exhibit([path]) as shown:
        export(shown, tmp_path / "page")
        with browser(800, 600) as chrome:
            chrome.get((tmp_path / "page/index.html").as_uri())
            wait_until(lambda: chrome.execute_script(LOADED))
            assert chrome.find_elements(By.TAG_NAME, "img") == []
            assert HOSTILE in chrome.execute_script("return $('panel').textContent")
            assert complaints(chrome) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.tif"], "nowhere.tif: No such file"),
        (["before.tif"] * 3, "Give one slide, or two"),
        (["before.tif", "--export", "nowhere/page"], "no folder"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run(["view", "--no-browser", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
