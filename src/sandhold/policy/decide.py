"""The verdict: may the sandbox connect to this destination, and which rule or reason says so.

`policy check`, enforcement, DNS, the log and the refusal all ask here, so that they cannot disagree.

Rules:

1. A policy that could not be read denies everything.
2. A rule matches when its pattern matches the host, its ports hold the port and it has not expired. A rule on a network
   that denies also matches an IPv6 address that carries an IPv4 address of that network.
3. Deny beats allow, whatever the order, the scope and how specific each is.
4. A metadata address is never opened (`policy/addresses.py`).
5. An address in the floor is opened only by a rule on that address or on a network within the floor.
6. The user's machine is opened only by a `localhost` rule with that port. A deny rule on a network that holds 127.0.0.1
   or ::1, on a wildcard over one of its names, or on everything, closes it.
7. What no rule matches falls to the posture. Only `allow-all` allows, and it opens neither the floor nor the user's
   machine.
8. An address that a name has must be open too: no deny rule on it, and rules 4 and 5. The rule that allowed the name is
   the one that is named.
9. Of everything a connection claims, each claim is judged and the first denial wins. Then the claims must agree on one
   host and one port. An address does not contradict a name; a `Host` header may differ in its port alone.
10. What has no port, a question to the resolver, is allowed where rules 1 to 7 allow the host on any port.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, DomainName, HostService, Source, canonical_address
from sandhold.model.rule import PORT_MAX, AddressPattern, Effect, Generation, Policy, Posture
from sandhold.policy.addresses import floor_reason, is_never_opened, opens_floor
from sandhold.policy.index import PolicyIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandhold.model.destination import Host
    from sandhold.model.rule import Rule

_LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_PORTS_SHOWN_FIRST: Final = (443, 80)  # what a rule without a port opens: the likeliest to be meant


def unreadable_policy(generation: Generation) -> PolicyIndex:
    """Return what stands in for a policy that is empty, unreadable, half-written or newer than we know (rule 1)."""
    return PolicyIndex(Policy(generation, Posture.DENY_ALL, ()), None, refusal=Reason.POLICY_UNREADABLE)


def decide(index: PolicyIndex, destination: Destination, now: float) -> Decision:
    """Judge one destination by rules 1 to 7; `now` is in seconds since the epoch."""
    decision = index.recall(destination, now)
    if decision is None:
        decision = _decide(index, destination, now)
        index.remember(destination, now, decision)
    return decision


def _decide(index: PolicyIndex, destination: Destination, now: float) -> Decision:
    if index.refusal is not None:
        return _because(index, Effect.DENY, index.refusal)
    host = destination.host
    if isinstance(host, IPv4Address | IPv6Address):
        host = canonical_address(host)
    match host:
        case DomainName(name):
            return _decide_name(index, name, destination.port, now)
        case HostService():
            return _decide_host_service(index, destination.port, now)
        case IPv4Address() | IPv6Address():
            return _decide_address(index, host, destination.port, now)


def decide_any_port(index: PolicyIndex, host: Host, now: float) -> Decision:
    """Judge a host without a port by rule 10, as 443, else 80, else its lowest allowed port; a denial is that of 443.

    The lowest allowed port is 1, or the first of an allow rule's range, or the one behind a deny rule's.
    """
    decision = index.recall(host, now)
    if decision is None:
        decision = _decide_any_port(index, host, now)
        index.remember(host, now, decision)
    return decision


def _decide_any_port(index: PolicyIndex, host: Host, now: float) -> Decision:
    if isinstance(host, IPv4Address | IPv6Address):
        host = canonical_address(host)
    edges = {1}
    edges.update(ports.first for rule in _rules_on(index, Effect.ALLOW, host) for ports in rule.ports)
    edges.update(ports.last + 1 for rule in _rules_on(index, Effect.DENY, host) for ports in rule.ports)
    edges.discard(PORT_MAX + 1)
    denied = decide(index, Destination(host, _PORTS_SHOWN_FIRST[0], Source.DNS), now)
    for port in (*_PORTS_SHOWN_FIRST, *sorted(edges)):
        decision = decide(index, Destination(host, port, Source.DNS), now)
        if decision.is_allowed:
            return decision
    return denied


def decide_address(
    index: PolicyIndex, destination: Destination, address: IPv4Address | IPv6Address, now: float
) -> Decision:
    """Judge an address that is about to be dialled for a destination, by rules 1 to 8.

    For an address destination that is the address itself; for the user's machine, 127.0.0.1 or ::1.
    """
    decision = index.recall((destination, address), now)
    if decision is None:
        decision = _decide_dialled(index, destination, address, now)
        index.remember((destination, address), now, decision)
    return decision


def _decide_dialled(
    index: PolicyIndex, destination: Destination, address: IPv4Address | IPv6Address, now: float
) -> Decision:
    decision = decide(index, destination, now)
    if not decision.is_allowed:
        return decision
    host = destination.host
    if isinstance(host, HostService):
        return decision if address in _LOOPBACK else _because(index, Effect.DENY, Reason.INTERNAL_ERROR)
    if not isinstance(host, DomainName):
        same = canonical_address(address) == canonical_address(host)
        return decision if same else _because(index, Effect.DENY, Reason.INTERNAL_ERROR)
    closed = _closed_address(index, address, destination.port, now)
    return decision if closed is None else closed


def decide_claims(index: PolicyIndex, claims: Sequence[Destination], now: float) -> Decision:
    """Judge everything that one connection or request claims, by rule 9; the first claim's decision stands for all.

    Nothing claimed is our own mistake, and denied as such.
    """
    claims = tuple(claims)
    decision = index.recall(claims, now)
    if decision is None:
        decision = _decide_claims(index, claims, now)
        index.remember(claims, now, decision)
    return decision


def _decide_claims(index: PolicyIndex, claims: Sequence[Destination], now: float) -> Decision:
    if not claims:
        return _because(index, Effect.DENY, Reason.INTERNAL_ERROR)
    decisions = [decide(index, claim, now) for claim in claims]
    for decision in decisions:
        if not decision.is_allowed:
            return decision
    if not _agree(claims):
        return _because(index, Effect.DENY, Reason.NAME_MISMATCH)
    return decisions[0]


def _rules_on(index: PolicyIndex, effect: Effect, host: Host) -> list[Rule]:
    match host:
        case DomainName(name):
            return index.rules_on_name(effect, name)
        case HostService():
            return index.rules_on_host_service(effect)
        case IPv4Address() | IPv6Address():
            return index.rules_on_address(effect, host)


def _decide_name(index: PolicyIndex, name: str, port: int, now: float) -> Decision:
    for effect in (Effect.DENY, Effect.ALLOW):
        rule = _first(index.rules_on_name(effect, name), port, now)
        if rule is not None:
            return _by(index, rule)
    return _by_posture(index)


def _decide_host_service(index: PolicyIndex, port: int, now: float) -> Decision:
    for effect in (Effect.DENY, Effect.ALLOW):
        rule = _first(index.rules_on_host_service(effect), port, now)
        if rule is not None:
            return _by(index, rule)
    return _because(index, Effect.DENY, Reason.NO_RULE)


def _decide_address(index: PolicyIndex, address: IPv4Address | IPv6Address, port: int, now: float) -> Decision:
    closed = _closed_address(index, address, port, now)
    if closed is not None:
        return closed
    is_floor = floor_reason(address) is not None
    allowing = index.rules_on_address(Effect.ALLOW, address)
    rule = _first((each for each in allowing if not is_floor or _opens_floor(each)), port, now)
    return _by_posture(index) if rule is None else _by(index, rule)


def _closed_address(index: PolicyIndex, address: IPv4Address | IPv6Address, port: int, now: float) -> Decision | None:
    """Return why an address is closed to everything but rules that name it, or None (rules 2 to 5)."""
    denying = _first(index.rules_on_address(Effect.DENY, address), port, now)
    if denying is not None:
        return _by(index, denying)
    floor = floor_reason(address)
    if floor is None:
        return None
    allowing = index.rules_on_address(Effect.ALLOW, address)
    opening = _first((rule for rule in allowing if _opens_floor(rule)), port, now)
    if opening is None or is_never_opened(address):
        return _because(index, Effect.DENY, floor)
    return None


def _opens_floor(rule: Rule) -> bool:
    return isinstance(rule.pattern, AddressPattern) and opens_floor(rule.pattern.network)


def _first(rules: Iterable[Rule], port: int, now: float) -> Rule | None:
    for rule in rules:
        if rule.expires_at is not None and now >= rule.expires_at:
            continue
        for ports in rule.ports:
            if ports.first <= port <= ports.last:
                return rule
    return None


def _by_posture(index: PolicyIndex) -> Decision:
    if index.policy.posture is Posture.ALLOW_ALL:
        return _because(index, Effect.ALLOW, Reason.POSTURE_ALLOWS)
    return _because(index, Effect.DENY, Reason.NO_RULE)


def _by(index: PolicyIndex, rule: Rule) -> Decision:
    return Decision(rule.effect, Reason.RULE, rule, index.policy.generation)


def _because(index: PolicyIndex, effect: Effect, reason: Reason) -> Decision:
    return Decision(effect, reason, None, index.policy.generation)


def _agree(claims: Sequence[Destination]) -> bool:
    dialled = {claim.host for claim in claims if _is_dialled_address(claim)}
    named = {claim.host for claim in claims if not _is_dialled_address(claim)}
    ports = {claim.port for claim in claims if claim.source is not Source.HTTP_HOST}
    if len(named) > 1 or len(dialled) > 1 or len(ports) > 1:
        return False
    return all(isinstance(host, DomainName) for host in named) or not dialled or named == dialled


def _is_dialled_address(claim: Destination) -> bool:
    return claim.source is Source.ADDRESS and not isinstance(claim.host, DomainName)
