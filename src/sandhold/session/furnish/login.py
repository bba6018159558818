"""Whether an agent has what it needs to sign in, as far as its file says: a key in its environment, or a login."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from sandhold.cell.layout import AGENT_HOME, LAYER_FOLDER, ROOT_UPPER

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

_KEYS_SHOWN: Final = 3


class SigningIn(Protocol):
    """What an agent's file says of it (`agents/parsing.py`)."""

    @property
    def name(self) -> str:
        """What the agent is called."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Variables, one of which it needs when it has no login."""

    @property
    def login(self) -> tuple[str, ...]:
        """Where its login lives, below the home inside."""


def missing_login(
    agent: SigningIn, sandbox: str, folder: str | os.PathLike[str], given: Set[str], host: Mapping[str, str]
) -> str | None:
    """Return what to tell the user of an agent that has neither a key nor a login, None when it has one or needs none.

    `folder` is the sandbox's on the host, `given` are the names of the variables that the agent has; `host` is the
    user's environment, looked at for names alone.
    """
    if not agent.keys or not given.isdisjoint(agent.keys) or _has_login(agent, folder):
        return None
    on_host = next((key for key in agent.keys if host.get(key)), None)
    if on_host is not None:
        return f"`{agent.name}` has no key in here, and you have `{on_host}`: `sbx run -e {on_host} {sandbox}`"
    names = " or ".join(f"`{key}`" for key in agent.keys[:_KEYS_SHOWN])
    text = f"`{agent.name}` needs a key: set {names} and run `sbx run -e {agent.keys[0]} {sandbox}`"
    return f"{text}; or sign in when it asks, which lasts as long as the sandbox" if agent.login else text


def _has_login(agent: SigningIn, folder: str | os.PathLike[str]) -> bool:
    """Whether an earlier run left a login in the layer; what stands there is only looked at, never followed."""
    home = f"{os.fspath(folder)}/{LAYER_FOLDER}/{ROOT_UPPER}{AGENT_HOME}"
    return any(os.path.lexists(f"{home}/{path}") for path in agent.login)
