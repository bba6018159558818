"""The allow rules that an agent brings: of origin `agent`, for its own sandbox alone, called `agent:NAME`.

They lose to any deny rule, whoever wrote it, and are inert under `deny-all`: `policy/decide.py` says so of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.model.rule import Effect, Origin, Rule, RuleId
from sandhold.policy.syntax import parse_resource

if TYPE_CHECKING:
    from sandhold.agents.parsing import Agent


def rules_of(agent: Agent, sandbox: str) -> tuple[Rule, ...]:
    """Return the rules that an agent brings into a sandbox, in the order of its file."""
    return tuple(_rule(agent.name, sandbox, resource) for resource in agent.hosts)


def _rule(agent: str, sandbox: str, resource: str) -> Rule:
    pattern, ports = parse_resource(resource, Effect.ALLOW)
    name = f"agent:{agent}"
    return Rule(RuleId(name), name, Effect.ALLOW, pattern, ports, resource, sandbox, Origin.AGENT)
