"""The policy a second time, slow and obviously right: every rule is tried on every destination, one after the other.

It shares nothing with `sandhold.policy` but the nouns. Where the real one probes dictionaries and masks, this one walks
labels by recursion and asks `ipaddress`.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING

from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, DomainName, HostService, Source
from sandhold.model.rule import (
    AddressPattern,
    Effect,
    EverythingPattern,
    HostServicePattern,
    NamePattern,
    Origin,
    Policy,
    Posture,
    Rule,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.model.destination import Host

Address = IPv4Address | IPv6Address

LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
MACHINE_NAMES = ("localhost", "host.docker.internal", "gateway.docker.internal", "host.sbx.internal")
METADATA = {
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42", "168.63.129.16"),
    *("100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
    *("fd20:ce::254", "fe80::a9fe:a9fe"),
}
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "::1/128", "ff00::/8")
OPENABLE = (
    *("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.88.99.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "240.0.0.0/4"),
    *("::/8", "100::/8", "200::/7", "400::/6", "800::/5", "1000::/4", "4000::/3", "6000::/3", "8000::/3", "a000::/3"),
    *("c000::/3", "e000::/4", "f000::/5", "f800::/6", "fc00::/7", "fe00::/9", "fe80::/10", "fec0::/10"),
    *("2001::/23", "2002::/16"),
)
_network6 = cache(IPv6Network)  # it would be parsed a hundred thousand times
_NEVER = tuple(ip_network(text) for text in NEVER)
_FLOOR = (*_NEVER, *(ip_network(text) for text in OPENABLE))


def decide(policy: Policy, sandbox: str | None, destination: Destination, now: float) -> Decision:
    """Judge a destination whose host is canonical."""
    matching = [
        rule
        for rule in _in_order(policy)
        if rule.sandbox in (None, sandbox)
        and (rule.expires_at is None or now < rule.expires_at)
        and any(ports.first <= destination.port <= ports.last for ports in rule.ports)
        and _matches(rule, destination.host)
    ]
    denying = [rule for rule in matching if rule.effect is Effect.DENY]
    if denying:
        return Decision(Effect.DENY, Reason.RULE, denying[0], policy.generation)
    host = destination.host
    if isinstance(host, IPv4Address | IPv6Address) and is_metadata(host):
        return Decision(Effect.DENY, Reason.METADATA_ADDRESS, None, policy.generation)
    allowing = [rule for rule in matching if rule.effect is Effect.ALLOW and _counts(rule, policy.posture)]
    is_closed = isinstance(host, IPv4Address | IPv6Address) and is_floor(host)
    if is_closed:
        assert isinstance(host, IPv4Address | IPv6Address)
        allowing = [] if is_never(host) else [rule for rule in allowing if _opens_floor(rule)]
    if allowing:
        return Decision(Effect.ALLOW, Reason.RULE, allowing[0], policy.generation)
    if is_closed:
        return Decision(Effect.DENY, Reason.ADDRESS_FLOOR, None, policy.generation)
    if policy.posture is Posture.ALLOW_ALL and not isinstance(host, HostService):
        return Decision(Effect.ALLOW, Reason.POSTURE_ALLOWS, None, policy.generation)
    return Decision(Effect.DENY, Reason.NO_RULE, None, policy.generation)


def decide_address(
    policy: Policy, sandbox: str | None, destination: Destination, address: Address, now: float
) -> Decision:
    """Judge an address that a name has: the name's own verdict, unless the address is denied or closed."""
    by_name = decide(policy, sandbox, destination, now)
    if by_name.effect is Effect.DENY:
        return by_name
    every_rule_but_names = Policy(
        policy.generation, policy.posture, tuple(r for r in policy.rules if isinstance(r.pattern, AddressPattern))
    )
    by_address = decide(every_rule_but_names, sandbox, Destination(address, destination.port, Source.ADDRESS), now)
    if by_address.effect is Effect.DENY and by_address.reason is not Reason.NO_RULE:
        return by_address
    return by_name


def decide_claims(policy: Policy, sandbox: str | None, claims: Sequence[Destination], now: float) -> Decision:
    """Judge all claims: the first denial, then every pair of claims against one another."""
    decisions = [decide(policy, sandbox, claim, now) for claim in claims]
    for decision in decisions:
        if decision.effect is Effect.DENY:
            return decision
    if any(_contradict(one, other) for one in claims for other in claims):
        return Decision(Effect.DENY, Reason.NAME_MISMATCH, None, policy.generation)
    return decisions[0]


def decide_any_port(policy: Policy, sandbox: str | None, host: Host, now: float) -> Decision:
    """Judge a question to the resolver: a port on each side of every rule's ends is tried."""
    ends = {end for rule in policy.rules for ports in rule.ports for end in (ports.first, ports.last)}
    tried = sorted({port for end in (1, *ends) for port in (end - 1, end, end + 1)} - {0, 65536})
    decisions = [decide(policy, sandbox, Destination(host, port, Source.DNS), now) for port in (443, 80, *tried)]
    return next((decision for decision in decisions if decision.is_allowed), decisions[0])


def is_floor(address: Address) -> bool:
    """Whether a name rule leaves the address closed."""
    return bool(carried(address)) or any(address in network for network in _FLOOR)


def is_metadata(address: Address) -> bool:
    """Whether the address is, or carries, that of a metadata service."""
    return any(str(each) in METADATA for each in (address, *carried(address)))


def is_never(address: Address) -> bool:
    """Whether the address is, or carries, one that nothing opens."""
    return any(each in network for each in (address, *carried(address)) for network in _NEVER)


def carried(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses inside an IPv6 address, read off its bytes."""
    if isinstance(address, IPv4Address):
        return []
    raw = address.packed
    found = []
    if address in _network6("::/96") and address > IPv6Address("::1"):
        found.append(raw[12:])
    if any(address in _network6(text) for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")):
        found.append(raw[12:])
    if address in _network6("64:ff9b:1::/48"):
        found += [each for each in (raw[6:8] + raw[9:11], raw[7:8] + raw[9:12], raw[9:13]) if each[0]]
        found.append(raw[12:])
    if address in _network6("2002::/16"):
        found.append(raw[2:6])
    if address in _network6("2001::/32"):
        found += [raw[4:8], bytes(255 - octet for octet in raw[12:])]
    if raw[8:12] in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"):
        found.append(raw[12:])
    return [IPv4Address(each) for each in found]


def label_matches(glob: str, label: str) -> bool:
    """Match one label by recursion on the first character of the glob."""
    if not glob:
        return not label
    if glob[0] == "*":
        return label_matches(glob[1:], label) or (bool(label) and label_matches(glob, label[1:]))
    return bool(label) and glob[0] in ("?", label[0]) and label_matches(glob[1:], label[1:])


def name_matches(pattern: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    """Match a name from its left: `**` takes one label, then possibly more."""
    if not pattern or not labels:
        return not pattern and not labels
    if pattern[0] == "**":
        return name_matches(pattern[1:], labels[1:]) or name_matches(pattern, labels[1:])
    return label_matches(pattern[0], labels[0]) and name_matches(pattern[1:], labels[1:])


def _in_order(policy: Policy) -> list[Rule]:
    return sorted(policy.rules, key=lambda rule: [Origin.LOCAL, Origin.AGENT, Origin.PRESET].index(rule.origin))


def _counts(rule: Rule, posture: Posture) -> bool:
    return posture is not Posture.DENY_ALL or rule.origin is Origin.LOCAL


def _opens_floor(rule: Rule) -> bool:
    if not isinstance(rule.pattern, AddressPattern):
        return False
    network = rule.pattern.network
    if network.version == 6 and network.prefixlen >= 96:
        identifier = network.network_address.packed[8:12]
        if identifier in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"):
            return True
    return any(network[0] in outer and network[-1] in outer for outer in _FLOOR)


def _matches(rule: Rule, host: object) -> bool:
    pattern = rule.pattern
    if isinstance(host, HostService):
        return _matches_machine(rule)
    if isinstance(pattern, EverythingPattern):
        return True
    if isinstance(pattern, NamePattern):
        return isinstance(host, DomainName) and name_matches(pattern.labels, tuple(host.value.split(".")))
    if isinstance(pattern, AddressPattern) and isinstance(host, IPv4Address | IPv6Address):
        addresses = [host, *carried(host)] if rule.effect is Effect.DENY else [host]
        return any(address in pattern.network for address in addresses)
    return False


def _matches_machine(rule: Rule) -> bool:
    pattern = rule.pattern
    if isinstance(pattern, HostServicePattern):
        return True
    if rule.effect is Effect.ALLOW:
        return False
    if isinstance(pattern, NamePattern):
        return any(name_matches(pattern.labels, tuple(name.split("."))) for name in MACHINE_NAMES)
    if isinstance(pattern, AddressPattern):
        return any(address in pattern.network for address in LOOPBACK)
    return isinstance(pattern, EverythingPattern)


def _contradict(one: Destination, other: Destination) -> bool:
    if Source.HTTP_HOST not in (one.source, other.source) and one.port != other.port:
        return True
    if one.host == other.host:
        return False
    is_name = {isinstance(claim.host, DomainName) for claim in (one, other)}
    address_claims = [c for c in (one, other) if c.source is Source.ADDRESS and not isinstance(c.host, DomainName)]
    return not (is_name == {True, False} and len(address_claims) == 1)
