"""Agents as data: one TOML file an agent, how it is installed, started and told where it is.

Those that are shipped stand beside this module; a user's own stand in a folder of theirs, and one there replaces a
shipped one of the same name. `agents/parsing.py` has the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.agents.parsing import AGENT_NAME, parse_agent
from sandhold.errors import SbxError
from sandhold.paths import SHIPPED

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.agents.parsing import Agent

DEFAULT_AGENT: Final = "shell"
AGENT_BYTES_MAX: Final = 256 * 1024  # a page of settings; more is no agent's file

_SUFFIX: Final = ".toml"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where an agent is written down: how its file is called in messages, and the file."""

    shown: str
    file: Path


def agent_names(user_folder: Path) -> tuple[str, ...]:
    """Return the names of the agents there are, shipped ones and those in the user's own folder."""
    return tuple(sorted(_sources(user_folder)))


def load_agent(name: str, user_folder: Path) -> Agent:
    """Return one agent.

    Raises:
        SbxError: when there is none of that name, or its file is not what it should be; the message names the file,
            the line and the key.
    """
    source = _sources(user_folder).get(name)
    if source is None:
        known = ", ".join(f"`{known}`" for known in agent_names(user_folder))
        raise SbxError(
            f"no agent is called `{name}`",
            hint=f"the agents are {known}; one of your own is a file `{user_folder}/{name}{_SUFFIX}`",
        )
    try:
        text = source.file.read_bytes()[: AGENT_BYTES_MAX + 1]
    except OSError as error:
        raise SbxError(f"`{source.shown}` cannot be read: {error.strerror or error}") from error
    if len(text) > AGENT_BYTES_MAX:
        raise SbxError(f"`{source.shown}` is too long for an agent's file")
    return parse_agent(name, source.shown, text)


def _sources(user_folder: Path) -> dict[str, _Source]:
    shipped = (SHIPPED / "agents").iterdir()
    found = {_name(file): _Source(f"agents/{file.name}", file) for file in shipped if _name(file)}
    if user_folder.is_dir():
        found |= {_name(file): _Source(str(file), file) for file in user_folder.iterdir() if _name(file)}
    return found


def _name(file: Path) -> str:
    """Return the agent's name that a file stands for, nothing when it stands for none."""
    name = file.name.removesuffix(_SUFFIX)
    return name if file.name != name and AGENT_NAME.fullmatch(name) else ""
