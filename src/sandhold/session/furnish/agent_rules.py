"""The rules that agents bring, for whoever lists, checks or enforces the policy: one function for all three."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.agents.definitions import load_agent
from sandhold.agents.rules import rules_of
from sandhold.errors import SbxError
from sandhold.store import sandboxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.model.rule import Rule
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths
    from sandhold.store.database import Database


def brought_rules(paths: Paths, sandbox: str | None) -> Callable[[Database], tuple[Rule, ...]]:
    """Return how to read the rules that the agent of one sandbox brings; with None, those of every sandbox.

    What is returned raises `SbxError` when an agent's file is gone or not what it should be: what it allowed is not
    known then, and whoever enforces must deny.
    """

    def read(database: Database) -> tuple[Rule, ...]:
        found = sandboxes.list_all(database) if sandbox is None else (sandboxes.get(database, sandbox),)
        return tuple(rule for each in found for rule in _rules(paths, each))

    return read


def _rules(paths: Paths, sandbox: Sandbox) -> tuple[Rule, ...]:
    try:
        return rules_of(load_agent(sandbox.agent, paths.agents), sandbox.name)
    except SbxError as error:
        raise SbxError(
            f"what the agent of `{sandbox.name}` may reach is not known: {error.message}",
            hint=f"mend the agent's file, or `sbx rm {sandbox.name}`",
        ) from error
