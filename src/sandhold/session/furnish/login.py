"""Whether an agent has what it needs to sign in, as far as its file says: a key in its environment, or a login."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sandhold.cell.images.layers import ROOT_UPPER
from sandhold.cell.spec import AGENT_HOME
from sandhold.session.creation import LAYER_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.agents.parsing import Agent
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths

_KEYS_SHOWN: Final = 3


def missing_login(
    paths: Paths, sandbox: Sandbox, agent: Agent, environment: Mapping[str, str], host: Mapping[str, str]
) -> str | None:
    """Return what to tell the user of an agent that has neither a key nor a login, None when it has one or needs none.

    `environment` is what this run gives beside the sandbox's own; `host` is the user's, looked at for names alone.
    """
    given = {*dict(sandbox.environment), *sandbox.host_variables, *dict(agent.environment), *environment}
    if not agent.keys or given.intersection(agent.keys) or _has_login(paths, sandbox, agent):
        return None
    on_host = next((key for key in agent.keys if host.get(key)), None)
    if on_host is not None:
        return f"`{agent.name}` has no key in here, and you have `{on_host}`: `sbx run -e {on_host} {sandbox.name}`"
    names = " or ".join(f"`{key}`" for key in agent.keys[:_KEYS_SHOWN])
    text = f"`{agent.name}` needs a key: set {names} and run `sbx run -e {agent.keys[0]} {sandbox.name}`"
    return f"{text}; or sign in when it asks, which lasts as long as the sandbox" if agent.login else text


def _has_login(paths: Paths, sandbox: Sandbox, agent: Agent) -> bool:
    """Whether an earlier run left a login in the layer; what stands there is only looked at, never followed."""
    home = paths.sandbox(sandbox.name) / LAYER_FOLDER / ROOT_UPPER / AGENT_HOME.removeprefix("/")
    return any(os.path.lexists(home / path) for path in agent.login)
