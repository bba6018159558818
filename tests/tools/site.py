"""A web site on the host's loopback that every tool can ask in its own way: a page, a repository, two registries."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

GREETING = "hello from the site"

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_WHEEL = "sample-1.0-py3-none-any.whl"
_METADATA = "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n"
PAGES = {
    "/": ("text/plain", GREETING),
    "/repo.git/info/refs": ("text/plain", f"{_COMMIT}\trefs/heads/main\n"),
    "/repo.git/HEAD": ("text/plain", "ref: refs/heads/main\n"),
    "/simple/sample/": ("text/html", f'<a href="/files/{_WHEEL}" data-core-metadata="true">{_WHEEL}</a>'),
    f"/files/{_WHEEL}.metadata": ("text/plain", _METADATA),
    "/sample": (
        "application/json",
        json.dumps(
            {
                "name": "sample",
                "dist-tags": {"latest": "1.0.0"},
                "versions": {"1.0.0": {"name": "sample", "version": "1.0.0", "dist": {"tarball": "", "shasum": ""}}},
            }
        ),
    ),
}


class Site:
    """The site while it is up, with a certificate of an authority that the host trusts."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._server = _Server(("127.0.0.1", 0), _Pages)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="site")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: object) -> None:
        """End TLS as its rules say, so that a client may tell the end from a cut."""
        if isinstance(request, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                request.unwrap()
            request.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error of the site's."""


class _Pages(BaseHTTPRequestHandler):
    timeout = 30.0

    def do_GET(self) -> None:
        """Serve a page."""
        kind, text = PAGES.get(self.path.partition("?")[0], ("", ""))
        self.send_response(200 if kind else 404)
        self.send_header("content-type", kind or "text/plain")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
