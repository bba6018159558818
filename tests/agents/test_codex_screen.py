"""The real Codex in front of its user: its full-screen interface, at a pseudo-terminal, in a real sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agents.driving import open_agent_sandbox
from tests.agents.modelserver import MODEL, serve
from tests.agents.screen import ALTERNATE_SCREEN, BRACKETED_PASTE, MOUSE, ProgramAtScreen
from tests.agents.scripts import PROMPT, install_httpx
from tests.walkthrough.story import INDEX

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation

FULL_SCREEN = {ALTERNATE_SCREEN, BRACKETED_PASTE, *MOUSE}

# Python 3.12 and later warn of any fork beside a thread; between this one and its exec only the pseudo-terminal is set.
pytestmark = [
    pytest.mark.long,
    pytest.mark.agent,
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def test_codex_at_a_terminal(sbx: Installation, project: Path) -> None:
    """`sbx run codex` shows Codex, takes a pasted prompt, shows its work, follows the window's size, passes ctrl-c on,
    and leaves the terminal as it was."""
    with serve(install_httpx) as model:
        sandbox = open_agent_sandbox(sbx, project, "codex", model)
        argv = sandbox.sbx.argv("run", "codex-lab", "--", *sandbox.words)
        with ProgramAtScreen(argv, project, rows=40, columns=100) as codex:
            codex.wait_for("Ask Codex to do anything")
            codex.wait_for(MODEL)
            assert codex.modes >= FULL_SCREEN
            codex.paste(PROMPT)
            codex.wait_for(PROMPT)
            codex.type("\r")
            codex.wait_for("httpx is installed, its version is")
            assert "Exited (status 1) python3 -m pip install httpx" in codex.text
            assert "Ran python3 -m pip install --break-system-packages" in codex.text

            codex.resize(rows=30, columns=60)
            codex.wait_for("httpx is installed, its version is")
            codex.wait_for(MODEL)

            codex.type("\x03")
            codex.wait_for("codex resume")  # what it says to whoever leaves; one that is killed says nothing
            assert codex.wait() == 0
            assert not codex.modes & FULL_SCREEN
    assert len(model.heard.results) == 3
    assert ("ALLOWED", INDEX, "200") in sbx.log("codex-lab")
    assert sbx.ok("ls").splitlines()[1].split()[2] == "stopped"
