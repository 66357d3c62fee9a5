"""Serves an exhibit to browsers on this machine only."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from slidesr.errors import RefusedError, SlidesrError
from slidesr.runtime.closeable import Closeable
from slidesr.view.exhibit import Exhibit, facts_json
from slidesr.view.page import ASSETS, page_html

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_CACHED_TILES = 1024  # about 60 kB each
_TILE = re.compile(r"tiles/(\d{1,2})/(\d{1,3})/(\d{1,7})_(\d{1,7})\.jpg")
_PIXEL = re.compile(r"pixel/(\d{1,2})/(\d{1,9})_(\d{1,9})")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_Answer = tuple[bytes, str]


class Server(Closeable):
    """An HTTP server on 127.0.0.1; URLs name images by index, never by path.

    Every URL starts with an unguessable token and the Host header must name this machine, so other
    web pages, other users and DNS rebinding get no answer.
    """

    def __init__(self, shown: Exhibit, port: int = 0) -> None:
        """Raises RefusedError where the port is taken."""
        self.token = secrets.token_urlsafe(24)
        site = _Site(shown, self.token)

        class Handler(_Handler):
            pass

        Handler.site = site
        try:
            self._server = ThreadingHTTPServer((_HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise RefusedError(f"port {port} cannot be used: {error}. Omit --port.") from error
        site.hosts = {f"{name}:{self.port}" for name in (_HOST, "localhost")}

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answers until `stop` is called or an interrupt comes."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Ends `serve`, from another thread."""
        self._server.shutdown()

    def close(self) -> None:
        self._server.server_close()


class _Site:
    """The content of each URL below the token."""

    def __init__(self, shown: Exhibit, token: str) -> None:
        self._shown, self.token = shown, token
        self.hosts: set[str] = set()
        self._jpeg = lru_cache(_CACHED_TILES)(self._tile)
        self._tissue = lru_cache(1)(shown.tissue_png)

    def answer(self, path: str) -> _Answer | None:
        """The content and its type, or None if the path does not exist."""
        if path == "":
            return page_html(facts_json(self._shown), is_served=True).encode(), "text/html"
        if path in ASSETS:
            return ASSETS[path].read_bytes(), ASSETS[path].content_type
        if path == "tissue.png":
            return self._tissue(), "image/png"
        if tile := _TILE.fullmatch(path):
            jpeg = self._jpeg(*map(int, tile.groups()))
            return (jpeg, "image/jpeg") if jpeg else None
        if pixel := _PIXEL.fullmatch(path):
            image, x, y = map(int, pixel.groups())
            return json.dumps(self._colour(image, x, y)).encode(), "application/json"
        return None

    def _tile(self, image: int, level: int, column: int, row: int) -> bytes | None:
        if image >= len(self._shown.placed):
            return None
        return self._shown.placed[image].tiles.jpeg(level, column, row)

    def _colour(self, image: int, x: int, y: int) -> tuple[int, int, int] | None:
        if image >= len(self._shown.placed):
            return None
        return self._shown.placed[image].tiles.pixel(x, y)


class _Handler(BaseHTTPRequestHandler):
    """One request: only GET and HEAD, from this machine, with the token."""

    site: _Site
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "slidesr", ""
    timeout = 30

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.site.hosts:
            self._send(HTTPStatus.FORBIDDEN, b"not this machine\n", "text/plain")
            return
        _, token, path = [*urlsplit(self.path).path.split("/", 2), "", ""][:3]
        if not hmac.compare_digest(token.encode(), self.site.token.encode()):
            self._send(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")
            return
        try:
            answer = self.site.answer(path)
        except SlidesrError as error:  # a tile that cannot be read
            _log.warning("%s", error)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b"unreadable\n", "text/plain")
            return
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")
        else:
            self._send(HTTPStatus.OK, *answer)

    do_HEAD = do_GET

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        text = kind.startswith("text/") or kind.endswith(("json", "javascript"))
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if text else kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: requests are private."""
