"""A sandbox on a host that trusts a company's authority, and a site of that company to ask."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import Installation
from tests.tools.company import NAME, Company
from tests.tools.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.installation import Done

DENIED = "https://denied.test"
INSTALL_S_MAX = 900.0  # a compiler has half a gigabyte to unpack
TOOL_S_MAX = 120.0  # package managers try a refused index several times


@dataclass(frozen=True, slots=True)
class Workshop:
    """A running sandbox `tools`, and where the allowed site is."""

    sbx: Installation
    allowed: str

    def run(self, script: str, user: str = "agent") -> Done:
        """Run a script inside, with everything that a sandbox's environment has."""
        return self.sbx("exec", "-u", user, "tools", "bash", "-c", script, timeout_s=TOOL_S_MAX)

    def add(self, *words: str, user: str = "root") -> None:
        """Install something inside, as its user would."""
        done = self.sbx("exec", "-u", user, "tools", *words, timeout_s=INSTALL_S_MAX)
        assert done.status == 0, done

    def blocked(self) -> list[str]:
        """Return the hosts that were refused so far, in order."""
        return [record["host"] for record in self.sbx.records("tools") if record.get("decision") == "deny"]


@pytest.fixture(scope="module")
def workshop(template_folder: Path) -> Iterator[Workshop]:
    """Run the site and the sandbox; the company's authority is in the host's bundle before the sandbox starts."""
    home = Path(tempfile.mkdtemp(prefix="sbx-test-"))
    company = Company(home)
    (home / "project").mkdir()
    sbx = Installation(home, template_folder, extra={"SSL_CERT_FILE": str(company.bundle)})
    with Site(company.server_context("http/1.1")) as site:
        sbx.ok("create", "--name", "tools", "shell", ".", folder=home / "project")
        sbx.ok("policy", "allow", "network", f"localhost:{site.port}")
        sbx.ok("run", "-d", "tools")
        yield Workshop(sbx, f"https://{NAME}:{site.port}")
        sbx.ok("rm", "-f", "tools")
    shutil.rmtree(home)
