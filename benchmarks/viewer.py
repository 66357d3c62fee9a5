"""Measures the viewer's load time, transferred bytes and frame rate on a large slide.

python benchmarks/viewer.py [--side 40000]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from material import write_slide

from slidesr.view import Server, exhibit

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browser_driver import browser

_LOADED = (
    "return window.left && left.world.getItemCount() && left.world.getItemAt(0).getFullyLoaded()"
)
_PAN = """
const done = arguments[0], item = left.world.getItemAt(0);
left.viewport.zoomTo(item.imageToViewportZoom(0.5), null, true);
left.viewport.panTo(new OpenSeadragon.Point(0.42, 0.42), true);
const start = performance.now(), frames = []; let blank = 0;
function frame(now) {
  frames.push(now);
  const t = (now - start) / 4000;
  if (t > 1) return done([frames.length / (frames.at(-1) - frames[0]) * 1000, blank]);
  left.viewport.panTo(new OpenSeadragon.Point(0.42 + 0.16 * t, 0.42 + 0.16 * t), true);
  const size = left.drawer.canvas, context = size.getContext("2d");
  const pixel = context.getImageData(size.width / 2, size.height / 2, 1, 1).data;
  if (pixel[3] === 0) blank += 1;
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=40_000, help="side of the slide, in pixels")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as folder:
        slide = write_slide(Path(folder) / "slide.tif", side, side // 4)
        with exhibit([slide]) as shown, Server(shown) as server:
            thread = threading.Thread(target=server.serve)
            thread.start()
            try:
                _measure(server.url)
            finally:
                server.stop()
                thread.join()


def _measure(url: str) -> None:
    with browser(1440, 900) as chrome:
        started = time.monotonic()
        chrome.get(url)
        while not chrome.execute_script(_LOADED):
            time.sleep(0.02)
        seconds = time.monotonic() - started
        fetched = sum(_bytes(chrome))
        chrome.set_script_timeout(30)
        rate, blank = chrome.execute_async_script(_PAN)
    print(f"first full view  {seconds:.2f} s")
    print(f"fetched for it   {fetched / 1e6:.2f} MB")
    print(f"panning          {rate:.0f} frames/s, {blank} of them blank in the centre")


def _bytes(chrome: Any) -> list[int]:
    """Encoded lengths of all responses so far."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    finished = [each for each in events if each["method"] == "Network.loadingFinished"]
    return [int(each["params"]["encodedDataLength"]) for each in finished]


if __name__ == "__main__":
    main()
