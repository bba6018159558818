"""Random policies and destinations, made from the input as a seed, judged by the index and by the slow reference.

One execution is one policy of up to a dozen rules and six destinations, each judged alone and with an address that its
name has, one of them without a port as DNS asks, and some together as the claims of one connection. What is read back
from the record of a decision is that decision.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from sandhold.model.destination import Destination, DomainName, HostService, Source, canonical_address
from sandhold.model.event import Connection, EventId, Via
from sandhold.model.rule import (
    EVERY_PORT,
    WEB_PORTS,
    AddressPattern,
    Effect,
    EverythingPattern,
    Generation,
    HostServicePattern,
    NamePattern,
    Origin,
    Policy,
    PortRange,
    Posture,
    Rule,
    RuleId,
)
from sandhold.policy.decide import decide, decide_address, decide_any_port, decide_claims
from sandhold.policy.index import PolicyIndex
from sandhold.store.encoding import FIRST_PREVIOUS, Envelope, encode_line
from sandhold.store.records import decode_record
from tests.fuzz.engine import Target
from tests.unit.policy import reference
from tests.unit.policy.strategies import ADDRESSES, ENDS, GLOBS, LABELS, NOW, PORTS, SANDBOXES
from tests.unit.store.samples import NOON

if TYPE_CHECKING:
    from contextlib import ExitStack

    from sandhold.model.decision import Decision
    from sandhold.model.destination import Host
    from sandhold.model.rule import Pattern
    from tests.fuzz.engine import Check

    Address = IPv4Address | IPv6Address

TARGETS_EACH: Final = 6
RULES_MAX: Final = 12
_KNOWN: Final = tuple(ip_address(text) for text in ADDRESSES)
_LENGTHS: Final = (0, 1, 3, 7, 8, 9, 10, 15, 16, 23, 24, 31, 32, 96, 104, 128)
_ORIGINAL: Final = (IPv4Address("198.18.0.1"), 443)
_EXPIRIES: Final = (None, None, NOW - 1, NOW, NOW + 1)


def random_policy(chance: random.Random) -> Policy:
    """Return a policy of few labels, addresses and ports, so that its rules meet the destinations."""
    rules = tuple(_rule(chance, number) for number in range(chance.randrange(RULES_MAX + 1)))
    return Policy(Generation(chance.randint(1, 5)), chance.choice(list(Posture)), rules)


def random_destination(chance: random.Random) -> Destination:
    """Return a destination of the same labels, addresses and ports."""
    return Destination(_host(chance), chance.choice(PORTS), chance.choice(list(Source)))


def _check(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        chance = random.Random(data)
        policy, sandbox = random_policy(chance), chance.choice(SANDBOXES)
        index = PolicyIndex(policy, sandbox)
        targets = [random_destination(chance) for _ in range(TARGETS_EACH)]
        reasons = set()
        for target in targets:
            expected = reference.decide(policy, sandbox, target, NOW)
            assert decide(index, target, NOW) == expected, f"{target} under {policy}"
            _compare_record(target, expected)
            reasons.add(f"{expected.effect}-{expected.reason}")
            if isinstance(target.host, DomainName):
                _compare_address(policy, index, sandbox, target, _address(chance))
        host = targets[0].host
        assert decide_any_port(index, host, NOW) == reference.decide_any_port(policy, sandbox, host, NOW)
        claims = tuple(targets[: 1 + chance.randrange(3)])
        assert decide_claims(index, claims, NOW) == reference.decide_claims(policy, sandbox, claims, NOW)
        return min(reasons)

    return check


def _compare_record(target: Destination, decided: Decision) -> None:
    """What is read back from the line in the trail is the decision and whom it was about."""
    event = Connection(EventId("E1"), Via.TRANSPARENT, target, (target,), _ORIGINAL, decided)
    line, _ = encode_line(Envelope(1, NOON, 1, "lab", "s1"), event, FIRST_PREVIOUS)
    record = decode_record(line[:-1])
    rule = None if decided.rule is None else decided.rule.id
    said = (record.decision, record.reason, record.rule, record.generation)
    assert said == (decided.effect, decided.reason, rule, decided.generation), line
    assert (record.host, record.port, record.source) == (str(target.host), target.port, target.source), line


def _compare_address(
    policy: Policy, index: PolicyIndex, sandbox: str | None, target: Destination, address: Address
) -> None:
    expected = reference.decide_address(policy, sandbox, target, address, NOW)
    assert decide_address(index, target, address, NOW) == expected, f"{target} at {address} under {policy}"


def _rule(chance: random.Random, number: int) -> Rule:
    effect = chance.choice((Effect.ALLOW, Effect.ALLOW, Effect.DENY))
    first, last = sorted((chance.choice(PORTS), chance.choice(PORTS)))
    return Rule(
        RuleId(f"local:{number}"),
        "a rule",
        effect,
        _pattern(chance),
        chance.choice((EVERY_PORT, WEB_PORTS, (PortRange(first, last),))),
        "",
        chance.choice(SANDBOXES),
        chance.choice(list(Origin)),
        chance.choice(_EXPIRIES),
    )


def _pattern(chance: random.Random) -> Pattern:
    kind = chance.randrange(8)
    if kind < 4:
        start = chance.choice(((), ("**",), ("*",)))
        globs = [chance.choice(GLOBS) for _ in range(chance.randint(0 if start else 1, 3))]
        return NamePattern((*start, *globs, chance.choice(ENDS)))
    if kind < 6:
        address = _address(chance)
        length = min(chance.choice(_LENGTHS), address.max_prefixlen)
        return AddressPattern(ip_network((address, length), strict=False))
    return HostServicePattern() if kind == 6 else EverythingPattern()


def _host(chance: random.Random) -> Host:
    kind = chance.randrange(6)
    if kind < 3:
        return DomainName(
            ".".join([*(chance.choice(LABELS) for _ in range(chance.randint(1, 4))), chance.choice(ENDS)])
        )
    return HostService() if kind == 3 else canonical_address(_address(chance))


def _address(chance: random.Random) -> Address:
    kind = chance.randrange(4)
    if kind < 2:
        return chance.choice(_KNOWN)
    return IPv4Address(chance.getrandbits(32)) if kind == 2 else IPv6Address(chance.getrandbits(128))


DECISIONS: Final = (Target("decision", (b"1", b"2"), (), _check, brief=600),)
