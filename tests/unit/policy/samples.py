"""Rules, policies and destinations, written as short as people write them."""

from __future__ import annotations

from sandhold.model.destination import Destination, Source, parse_authority
from sandhold.model.rule import Effect, Generation, Origin, Policy, Posture, Rule, RuleId
from sandhold.policy.index import PolicyIndex
from sandhold.policy.syntax import parse_resource

NOW = 1000.0


def rule(
    line: str, *, sandbox: str | None = None, origin: Origin = Origin.LOCAL, expires_at: float | None = None
) -> Rule:
    """Read `allow example.com:443` or `deny **`; the line is the rule's id too."""
    word, resource = line.split(" ")
    effect = Effect(word)
    pattern, ports = parse_resource(resource, effect)
    return Rule(RuleId(line), line, effect, pattern, ports, resource, sandbox, origin, expires_at)


def policy(*rules: str | Rule, posture: Posture = Posture.BALANCED) -> Policy:
    """Make generation 7 of a policy of lines and rules."""
    return Policy(Generation(7), posture, tuple(rule(each) if isinstance(each, str) else each for each in rules))


def index(*rules: str | Rule, posture: Posture = Posture.BALANCED, sandbox: str | None = "mine") -> PolicyIndex:
    """Index a policy of lines and rules for the sandbox `mine`."""
    return PolicyIndex(policy(*rules, posture=posture), sandbox)


def destination(text: str, source: Source = Source.DNS) -> Destination:
    """Read `example.com:443`, as a wire parser does."""
    host, port = parse_authority(text)
    return Destination(host, port, source)
