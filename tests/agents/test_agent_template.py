"""Templates of agents, installed for real from the registry through egress, shared, replaced, saved and removed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.installation import Installation

TOOL = f"tool-{os.getpid()}"
SAVED = f"saved-{os.getpid()}"
OWN = """\
description = "prints how long a text is on a terminal"
command = ["node", "-p", "require('/usr/local/lib/node_modules/string-width')('four')"]

[template]
npm = ["string-width@4.2.3"]
"""


@pytest.fixture
def tool(sbx: Installation, project: Path) -> Iterator[Installation]:
    """Write an agent that needs a small package, and remove what templates it and this test had made."""
    folder = sbx.home / "config" / "sandhold" / "agents"
    folder.mkdir(parents=True)
    (folder / f"{TOOL}.toml").write_text(OWN)
    assert project.is_dir()
    yield sbx
    for name in sbx("ls", "-q").out.split():
        sbx("rm", "-f", name)
    for name in (SAVED, TOOL):
        sbx("template", "rm", name)


def _names(sbx: Installation) -> set[str]:
    return {line.split()[0] for line in sbx.ok("template", "ls").splitlines()}


def test_a_template_is_built_on_first_use_and_shared(tool: Installation, project: Path) -> None:
    """The first sandbox installs it, on record in the trail of the build; the second starts from the same."""
    assert tool.ok("run", "--name", "one", TOOL, str(project)).strip() == "4"
    reached = {(record["host"], record["decision"]) for record in tool.records(f"build-{TOOL}") if record.get("host")}
    assert reached
    assert {decision for _, decision in reached} == {"allow"}
    assert tool.ok("ls", "-q").split() == ["one"]
    before = len(tool.records(f"build-{TOOL}"))
    done = tool("run", "--name", "two", TOOL, str(project))
    assert (done.out.strip(), "building" in done.err) == ("4", False)
    assert len(tool.records(f"build-{TOOL}")) == before
    assert tool.ok("exec", "-u", "root", "two", "ls", "-A", "/root").split() == [".bashrc", ".pki", ".profile"]


def test_a_template_that_is_older_than_its_file_says_so(tool: Installation, project: Path) -> None:
    """Once the file says another version, runs and the list say so, and a build without a flag follows the file."""
    folder = tool.home / "config" / "sandhold" / "agents"
    assert "outdated" not in tool("run", "--name", "one", TOOL, str(project)).err
    assert "exists" in tool("template", "build", TOOL).err
    (folder / f"{TOOL}.toml").write_text(OWN.replace("4.2.3", "4.2.2"))
    done = tool("run", "one")
    assert f"the template `{TOOL}` is outdated: its agent's file says `npm string-width@4.2.2` now" in done.err
    assert f"`sbx template build {TOOL}`" in done.err
    listed = tool("template", "ls")
    assert [line.split()[-1] for line in listed.out.splitlines() if line.startswith(TOOL)] == ["outdated"]
    assert f"`sbx template build {TOOL}`" in listed.err
    tool.ok("template", "build", TOOL)
    done = tool("exec", "one", "grep", '"version"', "/usr/local/lib/node_modules/string-width/package.json")
    assert "4.2.2" in done.out
    assert "outdated" not in done.err + tool.ok("template", "ls")


def test_a_file_that_broke_does_not_hide_the_list(tool: Installation, project: Path) -> None:
    """What cannot be compared is shown as outdated, with the line that is wrong."""
    tool.ok("run", "--name", "one", TOOL, str(project))
    (tool.home / "config" / "sandhold" / "agents" / f"{TOOL}.toml").write_text(OWN + "nonsense = 1\n")
    listed = tool("template", "ls")
    assert [line.split()[-1] for line in listed.out.splitlines() if line.startswith(TOOL)] == ["outdated"]
    assert "`nonsense`" in listed.err


def test_a_policy_that_denies_the_registry_denies_the_build(tool: Installation, project: Path) -> None:
    """The user's policy holds while a template is built; nothing is left of it, but the trail and what failed."""
    tool.ok("policy", "init", "deny-all")
    done = tool("run", "--name", "one", TOOL, str(project))
    assert done.status == 1
    assert "403" in done.err
    assert f"sbx policy log build-{TOOL}" in done.err
    assert TOOL not in _names(tool)
    assert tool.ok("ls", "-q") == ""
    assert {row[0] for row in tool.log(f"build-{TOOL}")} == {"BLOCKED"}


def test_what_is_in_use_stays(tool: Installation, project: Path) -> None:
    """A template is not replaced under a running sandbox, not removed under a stopped one or under another template."""
    tool.ok("run", "--name", "one", TOOL, str(project))
    assert f"template `{TOOL}` exists" in tool("template", "build", TOOL).err
    tool.ok("run", "-d", "one")
    assert "`one` runs from" in tool("template", "build", "--pull", TOOL).err
    assert "`one` is running" in tool("template", "save", "one", SAVED).err
    tool.ok("stop", "one")
    assert "`one` among them" in tool("template", "rm", TOOL).err
    tool.ok("exec", "-u", "root", "one", "sh", "-c", "echo kept >/opt/kept; rm /usr/bin/file; chmod 4755 /opt/kept")
    tool.ok("template", "save", "one", SAVED)
    tool.ok("rm", "one")
    assert f"`{SAVED}` lies over `{TOOL}`" in tool("template", "rm", TOOL).err
    assert f"`{SAVED}` lies over `{TOOL}`" in tool("template", "build", "--pull", TOOL).err
    assert tool.ok("run", "--name", "again", "--template", SAVED, TOOL, str(project)).strip() == "4"
    looked = "cat /opt/kept; stat -c '%U %a' /opt/kept; ls /usr/bin/file 2>/dev/null || echo gone"
    assert tool.ok("exec", "again", "sh", "-c", looked) == "kept\nroot 4755\ngone\n"


def test_a_name_that_is_taken_is_no_template(tool: Installation, project: Path) -> None:
    """Nothing that is built is replaced by something saved; what never ran has nothing to save."""
    tool.ok("create", "--name", "lab", "shell", str(project))
    assert "has not run yet" in tool("template", "save", "lab", SAVED).err
    for name in ("debian", "host", "codex", TOOL):
        assert "is the name of a template that is built" in tool("template", "save", "lab", name).err
    assert "cannot name a template" in tool("template", "save", "lab", "../up").err
    assert SAVED not in _names(tool)
