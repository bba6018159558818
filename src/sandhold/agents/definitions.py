"""Agents as data: one TOML file an agent, how it is started and what it is."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

DEFAULT_AGENT: Final = "shell"
_SUFFIX: Final = ".toml"


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that runs inside; `command` is what starts it, `ARGS` of `sbx run` come after."""

    name: str
    description: str
    command: tuple[str, ...]


def agent_names() -> tuple[str, ...]:
    """Return the names of the agents there are."""
    return tuple(sorted(file.name.removesuffix(_SUFFIX) for file in _files()))


def load_agent(name: str) -> Agent:
    """Return one agent.

    Raises:
        SbxError: when there is none of that name, or its file is not what it should be; the message names the key.
    """
    for file in _files():
        if file.name == name + _SUFFIX:
            return _parse(name, file.read_text("utf-8"))
    known = ", ".join(f"`{known}`" for known in agent_names())
    raise SbxError(f"no agent is called `{name}`", hint=f"the agents are {known}")


def _files() -> list[Traversable]:
    return [file for file in resources.files("sandhold.agents").iterdir() if file.name.endswith(_SUFFIX)]


def _parse(name: str, text: str) -> Agent:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SbxError(f"agent `{name}`: {error}") from error
    unknown = sorted(table.keys() - {"description", "command"})
    if unknown:
        raise SbxError(f"agent `{name}`: unknown key `{unknown[0]}`")
    description, command = table.get("description"), table.get("command")
    if not isinstance(description, str):
        raise SbxError(f"agent `{name}`: `description` is not a text")
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise SbxError(f"agent `{name}`: `command` is not a list of words")
    return Agent(name, description, tuple(command))
