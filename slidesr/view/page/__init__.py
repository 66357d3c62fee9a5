"""The web page: a template and its bundled assets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Asset:
    """An asset beside this module."""

    name: str
    content_type: str

    def read_bytes(self) -> bytes:
        return (_FOLDER / self.name).read_bytes()


ASSETS = {
    asset.name: asset
    for asset in (
        Asset("view.css", "text/css"),
        Asset("view.js", "text/javascript"),
        Asset("openseadragon.min.js", "text/javascript"),
        Asset("openseadragon.LICENSE.txt", "text/plain"),
    )
}


def page_html(facts_json: str, *, is_served: bool) -> str:
    """The HTML of an exhibit, served, or exported beside its tiles."""
    page = (_FOLDER / "view.html").read_text(encoding="utf-8")
    return page.replace("{{served}}", str(is_served).lower()).replace("{{facts}}", facts_json)
