"""What an agent finds in its home."""

from __future__ import annotations

import json
import tomllib
from pathlib import PurePosixPath

import pytest

from sandhold.agents.parsing import Agent
from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox
from sandhold.session.furnish.furnishing import files_of

FOLDERS = {
    "an ordinary folder": "/home/user/project",
    "a quote": '/home/user/the "best"',
    "a backslash and control characters": "/home/user/a\\b\nc\x7f\x01",
    "letters beyond ASCII": "/home/user/dépôt \N{PILE OF POO}",
}


def _sandbox(folder: str) -> Sandbox:
    mounts = (Mount(PurePosixPath(folder), is_read_only=False),)
    return Sandbox("lab", "tool", Isolation.NAMESPACES, "debian", mounts, Limits(None, None, 9), (), 0, 0.0)


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_the_workspace_is_named_as_json_can_read_it(folder: str) -> None:
    """A folder's name breaks out of no JSON text, whatever is in it."""
    agent = Agent("tool", "a tool", ("tool",), files=(("a.json", '{"in": "{workspace}"}'),))
    assert json.loads(dict(files_of(agent, _sandbox(folder)))["a.json"]) == {"in": folder}


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_the_workspace_is_named_as_toml_can_read_it(folder: str) -> None:
    """The same text is a TOML string."""
    agent = Agent("tool", "a tool", ("tool",), files=(("a.toml", 'in = "{workspace}"'),))
    assert tomllib.loads(dict(files_of(agent, _sandbox(folder)))["a.toml"]) == {"in": folder}


def test_an_agent_that_reads_instructions_finds_them() -> None:
    """They say which sandbox it is in; an agent that reads none gets no file."""
    assert files_of(Agent("tool", "a tool", ("tool",)), _sandbox("/a")) == ()
    ((path, text),) = files_of(Agent("tool", "a tool", ("tool",), instructions="A.md"), _sandbox("/a"))
    assert path == "A.md"
    assert "`lab`" in text
