"""The story that the README tells, command by command, for whoever tells it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation

INDEX = "pypi.org"
FILES = "files.pythonhosted.org"
GROUPS = (
    "default-ai-services",
    "default-package-managers",
    "default-code-and-containers",
    "default-cloud-infrastructure",
    "default-os-packages",
)
INSTALL = ("python3", "-m", "pip", "install", "--break-system-packages", "--no-cache-dir")


def tell(lab: Installation, project: Path) -> None:
    """Do what the README tells, in its order, with a stopped sandbox `sbxlab` for `project`."""
    rows = [line.split() for line in lab.ok("policy", "ls").splitlines()]
    assert tuple(row[0] for row in rows[1:6]) == GROUPS
    lab.ok("run", "-d", "sbxlab")
    assert lab.ok("ls").splitlines()[1].split()[2] == "running"

    refused = lab("exec", "sbxlab", "python3", "-m", "pip", "install", "httpx")
    assert refused.status != 0
    assert "externally-managed-environment" in refused.err
    lab.ok("exec", "sbxlab", *INSTALL, "httpx")
    version = lab.ok("exec", "sbxlab", "python3", "-c", "import httpx; print(httpx.__version__)")
    assert re.fullmatch(r"\d+\.\d+.*\n", version)

    said = lab("policy", "deny", "network", INDEX)
    identifier = re.search(r"local:([0-9a-f-]{36})", said.out)
    assert said.status == 0
    assert identifier is not None
    assert "`sbxlab`" in said.err
    assert "--now" in said.err
    assert lab.ok("policy", "ls").splitlines()[-1].split() == [f"local:{identifier[1]}", "network", "deny", INDEX]

    lab.ok("exec", "sbxlab", *INSTALL, "idna")  # the session still runs on the generation it started with
    assert "older" in lab.ok("ls")

    lab.ok("stop", "sbxlab")
    lab.ok("run", "-d", "sbxlab")
    assert "older" not in lab.ok("ls")
    assert lab.ok("exec", "sbxlab", "python3", "-c", "import httpx; print(httpx.__version__)") == version
    denied = lab("exec", "sbxlab", *INSTALL, "requests")
    assert denied.status != 0
    assert "No matching distribution found for requests" in denied.err
    head = lab.ok("exec", "sbxlab", "curl", "-sI", f"https://{INDEX}/simple/requests/")
    assert head.startswith("HTTP/2 403")
    assert "x-sbx-decision: denied" in head
    assert f"x-sbx-rule: local:{identifier[1]}" in head
    assert re.search(r"x-sbx-event: [0-9A-Z]{26}", head)
    body = lab.ok("exec", "sbxlab", "curl", "-s", f"https://{INDEX}/simple/requests/")
    assert INDEX in body
    assert "sbx policy" in body

    assert lab.ok("policy", "rm", "network", "--id", identifier[1])
    advice = lab("policy", "rm", "network", "--id", "default-package-managers")
    assert advice.status == 1
    assert "sbx policy deny network" in advice.err
    lab.ok("stop", "sbxlab")
    lab.ok("run", "-d", "sbxlab")
    lab.ok("exec", "sbxlab", *INSTALL, "requests")

    log = lab.log("sbxlab")
    assert ("ALLOWED", INDEX, "200") in log
    assert ("ALLOWED", FILES, "200") in log
    assert ("BLOCKED", INDEX, "-") in log
    lab.ok("stop", "sbxlab")
    assert lab.log("sbxlab") == log
    assert "unbroken" in lab.ok("policy", "log", "sbxlab", "--verify")
    assert (project / "hello.txt").read_text() == "hello from the host\n"
