"""`sbx create`, `ls`, `rm`, `prune`, `inspect` as typed, on sandboxes that do not run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation

CREATE = ("create", "--template", "host")

REFUSED = {
    "a name has no capitals": ((*CREATE, "--name", "Lab", "shell", "."), 2, "cannot name a sandbox"),
    "a name is no path": ((*CREATE, "--name", "../lab", "shell", "."), 2, "cannot name a sandbox"),
    "an agent is one that exists": ((*CREATE, "shel", "."), 1, "no agent is called"),
    "a workspace exists": ((*CREATE, "shell", "nowhere"), 2, "no folder"),
    "a workspace is a folder": ((*CREATE, "shell", "hello.txt"), 2, "not a folder"),
    "a workspace is not the system": ((*CREATE, "shell", "/etc"), 2, "belongs to the system"),
    "a workspace holds nothing of ours": ((*CREATE, "shell", ".."), 2, "sbx's own files"),
    "memory has a size": ((*CREATE, "--memory", "much", "shell", "."), 2, "is no size"),
    "a variable has a name": ((*CREATE, "-e", "1x=2", "shell", "."), 2, "is no variable"),
    "a variable has a value": ((*CREATE, "-e", "SBX_TEST_UNSET", "shell", "."), 2, "is not set"),
    "a machine has no kernel in the host's programs": (
        (*CREATE, "--isolation", "microvm", "shell", "."),
        2,
        "cannot start",
    ),
    "an unknown name": (("run", "nosuch"), 1, "no sandbox or agent is called `nosuch`"),
    "an unknown command": (("rnu",), 2, "no command `rnu`"),
    "an unknown flag": (("ls", "--wat"), 2, "no option `--wat`"),
}


@pytest.mark.parametrize(("words", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_makes_nothing(
    sbx: Installation, project: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    """What cannot be made is refused with the reason and a hint, and nothing is there afterwards."""
    done = sbx(*words, folder=project)
    assert sbx.ok("ls", "-q") == ""
    assert done.out == ""
    assert (done.status, message in done.err) == (status, True), done.err


def test_create_and_delete(sbx: Installation, project: Path) -> None:
    """A sandbox is listed as stopped, a second one of the name is refused with how to re-attach, rm leaves the
    workspace alone."""
    assert sbx.ok(*CREATE, "shell", ".", folder=project) == "shell-project\n"
    again = sbx(*CREATE, "shell", ".", folder=project)
    assert again.status == 1
    assert "sbx run shell-project" in again.err
    header, row = (line.split() for line in sbx.ok("ls").splitlines())
    assert header == ["SANDBOX", "AGENT", "STATUS", "ISOLATION", "POLICY", "PORTS", "WORKSPACE"]
    assert row == ["shell-project", "shell", "stopped", "namespaces", "1", "-", str(project)]
    facts = json.loads(sbx.ok("inspect", "shell-project"))
    assert json.loads(sbx.ok("inspect", "--json", "shell-project")) == facts
    assert facts["mounts"] == [str(project)]
    sbx.ok("rm", "shell-project")
    assert sbx.ok("ls", "-q") == ""
    assert (project / "hello.txt").exists()
    unknown = sbx("rm", "shell-project")
    assert (unknown.status, "no sandbox is called" in unknown.err) == (1, True)


def test_the_closest_name_is_offered(sbx: Installation, project: Path) -> None:
    """A mistyped name is answered with the one that exists."""
    sbx.ok(*CREATE, "--name", "sbxlab", "shell", ".", folder=project)
    assert "`sbxlab`" in sbx("stop", "sbxlap").err


def test_prune_asks_first(sbx: Installation, project: Path) -> None:
    """Without a terminal prune deletes nothing unless told so."""
    sbx.ok(*CREATE, "--name", "one", "shell", ".", folder=project)
    refused = sbx("prune")
    assert (refused.status, sbx.ok("ls", "-q")) == (2, "one\n")
    assert "--force" in refused.err
    sbx.ok("prune", "--force")
    assert sbx.ok("ls", "-q") == ""


def test_two_hundred_sandboxes(sbx: Installation, project: Path) -> None:
    """Two hundred sandboxes are created, listed and deleted, each with its own row."""
    for number in range(200):
        sbx.ok(*CREATE, "--name", f"s{number}", "shell", ".", folder=project)
    assert sbx.ok("ls", "-q").split() == [f"s{number}" for number in range(200)]
    assert len(sbx.ok("ls").splitlines()) == 201
    sbx.ok("prune", "--force")
    assert sbx.ok("ls", "-q") == ""


def test_the_whole_log_is_shown(sbx: Installation, project: Path) -> None:
    """A log that was full is put aside at any moment: what stands there is shown before what came later."""
    sbx.ok(*CREATE, "--name", "lab", "shell", ".", folder=project)
    assert "has not run yet" in sbx("logs", "lab").err
    folder = sbx.state / "sandboxes" / "lab"
    (folder / "session.log").write_text("later\n")
    assert sbx.ok("logs", "lab") == "later\n"
    (folder / "session.log.1").write_text("first\n\x1b[2J\n")
    assert sbx.ok("logs", "lab") == "first\n\\x1b[2J\nlater\n"
