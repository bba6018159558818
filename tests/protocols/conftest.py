"""A sandbox, and servers on the host that it may reach, in plain and in TLS."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import Installation
from tests.protocols.http1 import Http1Server
from tests.protocols.http2 import Http2Server
from tests.tools.company import NAME, Company

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.installation import Done

SANDBOX = "lab"
PROTOCOL_S_MAX = 300.0  # 200 MB through TLS on a busy machine

Kind = str
KINDS: tuple[Kind, ...] = ("plain", "tls")


@dataclass(frozen=True, slots=True)
class Lab:
    """A running sandbox, and a server of each version of HTTP for each kind of connection."""

    sbx: Installation
    http1: Mapping[Kind, Http1Server]
    http2: Mapping[Kind, Http2Server]

    def run(self, script: str) -> Done:
        """Run a script inside."""
        return self.sbx("exec", SANDBOX, "bash", "-c", script, timeout_s=PROTOCOL_S_MAX)

    def place(self, server: Http1Server | Http2Server) -> str:
        """Return host and port of a server as the sandbox knows it."""
        return f"{NAME}:{server.port}"


@pytest.fixture(scope="module")
def lab(template_folder: Path) -> Iterator[Lab]:
    """Run the servers and the sandbox."""
    home = Path(tempfile.mkdtemp(prefix="sbx-test-"))
    company = Company(home)
    (home / "project").mkdir()
    sbx = Installation(home, template_folder, extra={"SSL_CERT_FILE": str(company.bundle)})
    with (
        Http1Server(None) as plain1,
        Http1Server(company.server_context("http/1.1")) as tls1,
        Http2Server(None) as plain2,
        Http2Server(company.server_context("h2")) as tls2,
    ):
        sbx.ok("create", "--name", SANDBOX, "shell", ".", folder=home / "project")
        places = [f"localhost:{server.port}" for server in (plain1, tls1, plain2, tls2)]
        sbx.ok("policy", "allow", "network", ",".join(places))
        sbx.ok("run", "-d", SANDBOX)
        yield Lab(sbx, {"plain": plain1, "tls": tls1}, {"plain": plain2, "tls": tls2})
        sbx.ok("rm", "-f", SANDBOX)
    shutil.rmtree(home)
