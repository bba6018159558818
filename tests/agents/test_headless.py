"""Real agents carry out "Install httpx and tell me the version" in real sandboxes, where that is allowed and where not.

Each is installed from its registry into a template of ours; only the model they talk to is ours (`modelserver.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agents.driving import AGENTS, HOST_INSIDE, KEY, open_agent_sandbox
from tests.agents.modelserver import serve
from tests.agents.scripts import MANAGED, PROMPT, REFUSED, install_httpx, version_in
from tests.walkthrough.story import FILES, INDEX

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation

QUICK = "codex"  # the one that every run of the tests tries

LATER = (pytest.mark.long, pytest.mark.agent)
EACH_AGENT = [pytest.param(name, id=name, marks=() if name == QUICK else LATER) for name in AGENTS]


@pytest.mark.parametrize("agent", EACH_AGENT)
def test_an_agent_does_what_it_is_asked(sbx: Installation, project: Path, agent: str) -> None:
    """The agent meets the distribution's own packages, installs, and says the version that is there; the default policy
    has all it needs, each connection is on record, and the key it was given is not."""
    with serve(install_httpx) as model:
        sandbox = open_agent_sandbox(sbx, project, agent, model)
        done = sandbox.ask(PROMPT)
    transcript = done.out + done.err
    assert done.status == 0, transcript

    assert len(model.heard.results) == 3, model.heard.results
    managed, installed, printed = model.heard.results
    assert MANAGED in managed
    assert REFUSED not in installed
    version = version_in(printed)
    assert version is not None
    assert sbx.ok("exec", sandbox.name, "python3", "-c", "import httpx; print(httpx.__version__)") == f"{version}\n"
    assert f"httpx is installed, its version is {version}." in transcript
    if AGENTS[agent].prints_results:
        assert MANAGED in transcript

    rows = set(sbx.log(sandbox.name))
    assert [row for row in rows if row[0] == "BLOCKED"] == []
    assert {("ALLOWED", host, "200") for host in (INDEX, FILES, HOST_INSIDE)} <= rows
    assert sorted(sandbox.asked_of_model()) == sorted(model.heard.requests)
    assert KEY not in sandbox.everything_on_record()
    assert "unbroken" in sbx.ok("policy", "log", sandbox.name, "--verify")


@pytest.mark.parametrize("agent", EACH_AGENT)
def test_an_agent_is_refused(sbx: Installation, project: Path, agent: str) -> None:
    """With the index denied nothing is installed, the agent sees the error and reports it, and the refusal is on record
    while its conversation with the model goes on."""
    with serve(install_httpx) as model:
        sandbox = open_agent_sandbox(sbx, project, agent, model)
        sbx.ok("policy", "deny", "network", INDEX, "--sandbox", sandbox.name)
        done = sandbox.ask(PROMPT)
    transcript = done.out + done.err
    assert sbx("exec", sandbox.name, "python3", "-c", "import httpx").status == 1
    assert done.status == 0, transcript

    assert len(model.heard.results) == 2, model.heard.results
    managed, refused = model.heard.results
    assert MANAGED in managed
    assert REFUSED in refused
    assert REFUSED in transcript

    rows = set(sbx.log(sandbox.name))
    assert not {host for decision, host, _ in rows if decision == "ALLOWED"} & {INDEX, FILES}
    assert ("BLOCKED", INDEX, "-") in rows
    assert ("ALLOWED", HOST_INSIDE, "200") in rows
    assert sorted(sandbox.asked_of_model()) == sorted(model.heard.requests)
