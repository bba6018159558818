"""A web site on the host's loopback that every tool can ask in its own way: a page, a repository, two registries."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

GREETING = "hello from the site"

ANSWER_IN_XML = (
    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult>"
    f"<Audience>{GREETING}</Audience>"
    "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_WHEEL = "sample-1.0-py3-none-any.whl"
_METADATA = "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n"
PAGES = {
    "/": ("text/plain", GREETING),
    "/repo.git/info/refs": ("text/plain", f"{_COMMIT}\trefs/heads/main\n"),
    "/repo.git/HEAD": ("text/plain", "ref: refs/heads/main\n"),
    "/simple/sample/": ("text/html", f'<a href="/files/{_WHEEL}" data-core-metadata="true">{_WHEEL}</a>'),
    f"/files/{_WHEEL}.metadata": ("text/plain", _METADATA),
    "/go/example.com/sample/@v/list": ("text/plain", "v1.0.0\n"),
    "/go/example.com/sample/@v/v1.0.0.info": ("application/json", '{"Version": "v1.0.0"}'),
    "/go/example.com/sample/@v/v1.0.0.mod": ("text/plain", "module example.com/sample\n"),
    "/crates/config.json": ("application/json", '{"dl": "https://{host}/crates", "api": "https://{host}"}'),
    "/api/v1/crates": (
        "application/json",
        '{"crates": [{"name": "sample", "max_version": "1.0.0", "description": ""}], "meta": {"total": 1}}',
    ),
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
        if self.headers.get("upgrade") == "websocket":
            self._greet_over_websocket()
            return
        kind, text = PAGES.get(self.path.partition("?")[0], ("", ""))
        text = text.replace("{host}", self.headers.get("host", ""))
        self.send_response(200 if kind else 404)
        self.send_header("content-type", kind or "text/plain")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        """Answer a call of an API in XML, whatever it says."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.send_response(200)
        self.send_header("content-type", "text/xml")
        self.send_header("content-length", str(len(ANSWER_IN_XML)))
        self.end_headers()
        self.wfile.write(ANSWER_IN_XML.encode())

    def _greet_over_websocket(self) -> None:
        """Accept (RFC 6455 section 4.2.2), send one message and close in order."""
        key = f"{self.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()
        self.protocol_version = "HTTP/1.1"
        self.send_response(101)
        for name, value in (("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-accept", accept)):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(bytes([0x81, len(GREETING)]) + GREETING.encode() + b"\x88\x00")
        self.rfile.read(1)  # the client's answer to the closing

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
