"""The rules an agent brings: its own sandbox's, overridden by any deny, nothing under `deny-all`."""

from __future__ import annotations

from dataclasses import replace

from sandhold.agents.parsing import Agent
from sandhold.agents.rules import rules_of
from sandhold.model.destination import Destination, Source, parse_authority
from sandhold.model.rule import Effect, Generation, Origin, Policy, Posture, Rule, RuleId
from sandhold.policy.decide import decide
from sandhold.policy.index import PolicyIndex

AGENT = Agent("tool", "a tool", ("tool",), hosts=("api.example.com", "git.example.com:22"))


def _is_allowed(rules: tuple[Rule, ...], target: str, sandbox: str, posture: Posture = Posture.BALANCED) -> bool:
    host, port = parse_authority(target, 443)
    index = PolicyIndex(Policy(Generation(1), posture, rules), sandbox)
    return decide(index, Destination(host, port, Source.SNI), 0.0).is_allowed


def test_they_open_what_is_named_in_one_sandbox() -> None:
    """Nothing else is opened, and nothing anywhere else."""
    rules = rules_of(AGENT, "lab")
    assert not _is_allowed(rules, "api.example.com", "other")
    assert not _is_allowed(rules, "git.example.com:443", "lab")
    assert not _is_allowed(rules, "www.example.com", "lab")
    assert _is_allowed(rules, "api.example.com", "lab")
    assert _is_allowed(rules, "git.example.com:22", "lab")


def test_any_deny_beats_them() -> None:
    """A deny rule of any origin and scope does."""
    rules = rules_of(AGENT, "lab")
    for origin in Origin:
        deny = replace(rules[0], id=RuleId("d"), effect=Effect.DENY, origin=origin, sandbox=None)
        assert not _is_allowed((*rules, deny), "api.example.com", "lab")


def test_deny_all_makes_them_inert() -> None:
    """Only what the user allows counts then."""
    assert not _is_allowed(rules_of(AGENT, "lab"), "api.example.com", "lab", Posture.DENY_ALL)


def test_they_say_whose_they_are() -> None:
    """`policy ls` shows them under the agent's name."""
    assert {(rule.name, rule.origin, rule.sandbox) for rule in rules_of(AGENT, "lab")} == {
        ("agent:tool", Origin.AGENT, "lab")
    }
    assert [rule.resource for rule in rules_of(AGENT, "lab")] == list(AGENT.hosts)
