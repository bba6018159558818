"""Agents: the shipped ones, and a user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.agents.definitions import AGENT_BYTES_MAX, agent_names, load_agent
from sandhold.errors import SbxError

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = ("claude", "codex", "copilot", "gemini", "opencode", "shell")
OWN = 'description = "mine"\ncommand = ["mine"]\n'


LOGIN_UNSEEN = {"copilot"}  # its login stands in the file of its settings, which is there without one


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_agent_is_whole(name: str, tmp_path: Path) -> None:
    """Each one can be started attached and for one prompt; all but the shell are installed, told and need a key."""
    agent = load_agent(name, tmp_path)
    assert agent.command
    assert agent.headless_command("do it")[-1] == "do it"
    if name != "shell":
        assert agent.recipe is not None
        assert agent.recipe.npm
        assert agent.keys
        assert bool(agent.login) is (name not in LOGIN_UNSEEN)
        assert agent.instructions


def test_there_are_the_shipped_agents(tmp_path: Path) -> None:
    """A folder that is not there adds none."""
    assert agent_names(tmp_path / "never") == SHIPPED


def test_an_agent_of_ones_own_is_found_and_wins(tmp_path: Path) -> None:
    """A file in the user's folder is an agent, and stands before a shipped one of its name."""
    (tmp_path / "mine.toml").write_text(OWN)
    (tmp_path / "codex.toml").write_text(OWN)
    assert agent_names(tmp_path) == tuple(sorted((*SHIPPED, "mine")))
    assert load_agent("mine", tmp_path).command == ("mine",)
    assert load_agent("codex", tmp_path).recipe is None


@pytest.mark.parametrize("name", [".hidden.toml", "Upper.toml", "notes.txt", ".toml", "a b.toml"])
def test_other_files_are_no_agents(name: str, tmp_path: Path) -> None:
    """Only a name that can name a sandbox names an agent."""
    (tmp_path / name).write_text(OWN)
    assert agent_names(tmp_path) == SHIPPED


def test_an_unknown_agent_is_said_to_be(tmp_path: Path) -> None:
    """The hint names those there are and where one's own would stand."""
    with pytest.raises(SbxError, match="no agent is called `nosuch`") as caught:
        load_agent("nosuch", tmp_path)
    assert "`codex`" in str(caught.value.hint)
    assert f"{tmp_path}/nosuch.toml" in str(caught.value.hint)


def test_an_error_names_the_users_own_file(tmp_path: Path) -> None:
    """Whoever wrote it can open it at that line."""
    (tmp_path / "mine.toml").write_text(f"{OWN}nonsense = 1\n")
    with pytest.raises(SbxError) as caught:
        load_agent("mine", tmp_path)
    assert f"`{tmp_path}/mine.toml`, line 3: `nonsense` is unknown" in caught.value.message


def test_a_file_that_cannot_be_an_agent_is_not_read_whole(tmp_path: Path) -> None:
    """What is too long is refused; what is no file is too."""
    (tmp_path / "long.toml").write_text(f"#{'x' * AGENT_BYTES_MAX}\n{OWN}")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SbxError, match="too long"):
        load_agent("long", tmp_path)
    with pytest.raises(SbxError, match="cannot be read"):
        load_agent("folder", tmp_path)
