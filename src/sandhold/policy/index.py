"""A policy arranged so that finding the rules for a host costs the same for ten rules and for a million.

Names without a wildcard, `*.` and `**.` over literal labels are one dictionary probe for each label of the host; other
globs wait under the literal labels they end in; networks are one probe for each prefix length in use. What a lookup
examines one by one is only what was written for that very name, suffix or network.

Rules:

1. A rule counts when it is for every sandbox or for the one the index is made for.
2. Under `deny-all` only local rules allow; deny rules always count.
3. Of several rules that match, a local one is named before an agent's and that before a default group's; then the one
   that comes first.
4. A policy never changes and its rules only ever expire: until the first of them does, a decision holds for as long as
   the index does, whatever the time.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from sandhold.model.destination import HOST_SERVICE_NAMES
from sandhold.model.rule import (
    AddressPattern,
    Effect,
    EverythingPattern,
    HostServicePattern,
    NamePattern,
    Origin,
    Posture,
)
from sandhold.policy.addresses import embedded_ipv4
from sandhold.policy.stored_rules import StoredRules

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator
    from ipaddress import IPv4Network, IPv6Network

    from sandhold.model.decision import Decision, Reason
    from sandhold.model.rule import Policy, Rule

_LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_PREFERENCE: Final = {Origin.LOCAL: 0, Origin.AGENT: 1, Origin.PRESET: 2}
READ_MAX: Final = 4096  # rules kept as objects once a lookup has found them: two or three for each busy host

DECISIONS_MAX: Final = 1024  # remembered; one connection asks a dozen times for three

_Key = TypeVar("_Key", int, str)
_Ranks = int | list[int]
"""Positions in the policy. One position alone is kept bare: a million lists of one would weigh 60 MB more."""


class PolicyIndex:
    """One policy for one sandbox (None: for none by name, so only rules for every sandbox count).

    `refusal` is the reason to deny everything, whatever the rules say; None for a policy that holds.
    """

    __slots__ = ("_allow", "_decisions", "_deny", "_first_expiry", "_read", "policy", "refusal")

    def __init__(self, policy: Policy, sandbox: str | None, *, refusal: Reason | None = None) -> None:
        self.policy = policy
        self.refusal = refusal
        self._read: dict[int, Rule] = {}
        self._allow = _Table()
        self._deny = _Table()
        rules = policy.rules
        if isinstance(rules, StoredRules):  # local ones, which no posture makes inert
            for rank, effect, name in rules.plain_names(sandbox):
                _add(self._table(effect).exact, name, rank)
        for rank, rule in rules.not_plain() if isinstance(rules, StoredRules) else enumerate(rules):
            if rule.sandbox in (None, sandbox) and not _is_inert(rule, policy.posture):
                self._table(rule.effect).add(rank, rule)
        self._decisions: dict[Hashable, Decision] = {}
        self._first_expiry = min(self.expiries, default=inf)

    @property
    def expiries(self) -> tuple[float, ...]:
        """The moments at which rules of the policy expire."""
        rules = self.policy.rules
        if isinstance(rules, StoredRules):
            return tuple(rules.expiries())
        return tuple(rule.expires_at for rule in rules if rule.expires_at is not None)

    def recall(self, asked: Hashable, now: float) -> Decision | None:
        """Return the decision that was made on exactly this before, if it still holds (rule 4)."""
        return self._decisions.get(asked) if now < self._first_expiry else None

    def remember(self, asked: Hashable, now: float, decision: Decision) -> None:
        """Keep a decision for `recall`, while no rule has expired."""
        if now < self._first_expiry:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            self._decisions[asked] = decision

    def rules_on_name(self, effect: Effect, name: str) -> list[Rule]:
        """Return the rules whose pattern matches a canonical name, in the order of rule 3, whatever their ports."""
        return self._rules(self._table(effect).on_name(name))

    def rules_on_address(self, effect: Effect, address: IPv4Address | IPv6Address) -> list[Rule]:
        """Return the rules whose pattern matches an address, in the order of rule 3, whatever their ports.

        A deny rule also matches an IPv6 address by an IPv4 address that it carries.
        """
        table = self._table(effect)
        found = set(table.on_address(address))
        if effect is Effect.DENY:
            for carried in embedded_ipv4(address):
                found.update(table.on_address(carried))
        return self._rules(found)

    def rules_on_host_service(self, effect: Effect) -> list[Rule]:
        """Return the rules that name the user's machine, in the order of rule 3, whatever their ports.

        An allow rule does so only as `localhost`. A deny rule also does with a wildcard over one of the machine's
        names, with a network that holds 127.0.0.1 or ::1, and with `**`.
        """
        table = self._table(effect)
        found = set(table.host_service)
        if effect is Effect.DENY:
            for name in HOST_SERVICE_NAMES:
                found.update(table.on_name(name))
            for address in _LOOPBACK:
                found.update(table.on_address(address))
        return self._rules(found)

    def _table(self, effect: Effect) -> _Table:
        return self._deny if effect is Effect.DENY else self._allow

    def _rules(self, ranks: Iterable[int]) -> list[Rule]:
        rules = [self._rule(rank) for rank in sorted(ranks)]
        if len(rules) > 1:
            rules.sort(key=_preference)  # which keeps the order of what is equal
        return rules

    def _rule(self, rank: int) -> Rule:
        """Return a rule of the policy; one that is found again is not read again."""
        rule = self._read.get(rank)
        if rule is None:
            if len(self._read) >= READ_MAX:
                self._read.clear()
            rule = self._read[rank] = self.policy.rules[rank]
        return rule


class _Table:
    """The rules of one effect, as ranks under what their patterns can be looked up by."""

    __slots__ = ("any_below", "everything", "exact", "globs", "host_service", "networks", "one_below")

    def __init__(self) -> None:
        self.exact: dict[str, _Ranks] = {}
        self.one_below: dict[str, _Ranks] = {}
        self.any_below: dict[str, _Ranks] = {}
        self.globs: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        self.networks: dict[tuple[int, int], dict[int, _Ranks]] = {}
        """By IP version and network mask, then by network address."""
        self.host_service: list[int] = []
        self.everything: list[int] = []

    def add(self, rank: int, rule: Rule) -> None:
        """Put a rule where a lookup finds it."""
        match rule.pattern:
            case NamePattern(labels):
                self._add_name(rank, labels)
            case AddressPattern(network):
                self._add_network(rank, network)
            case HostServicePattern():
                self.host_service.append(rank)
            case EverythingPattern():
                self.everything.append(rank)

    def on_name(self, name: str) -> list[int]:
        """Return the ranks that match a name, in no order."""
        found = [*self.everything, *_each(self.exact.get(name))]
        parent = name.partition(".")[2]
        found += _each(self.one_below.get(parent))
        suffix = parent
        while suffix:
            found += _each(self.any_below.get(suffix))
            if self.globs and suffix in self.globs:
                found += self._matching_globs(suffix, name)
            suffix = suffix.partition(".")[2]
        return found

    def on_address(self, address: IPv4Address | IPv6Address) -> list[int]:
        """Return the ranks that match an address, in no order."""
        found = list(self.everything)
        number = int(address)
        for (version, mask), numbers in self.networks.items():
            if version == address.version:
                found += _each(numbers.get(number & mask))
        return found

    def _add_name(self, rank: int, labels: tuple[str, ...]) -> None:
        literal = _literal_start(labels)
        suffix = ".".join(labels[literal:])
        if literal == 0:
            _add(self.exact, suffix, rank)
        elif labels[:literal] == ("*",):
            _add(self.one_below, suffix, rank)
        elif labels[:literal] == ("**",):
            _add(self.any_below, suffix, rank)
        else:
            self.globs.setdefault(suffix, []).append((labels[:literal], rank))

    def _add_network(self, rank: int, network: IPv4Network | IPv6Network) -> None:
        numbers = self.networks.setdefault((network.version, int(network.netmask)), {})
        _add(numbers, int(network.network_address), rank)

    def _matching_globs(self, suffix: str, name: str) -> Iterator[int]:
        labels = tuple(name[: -len(suffix) - 1].split("."))
        for globs, rank in self.globs[suffix]:
            if _labels_match(globs, labels):
                yield rank


def _preference(rule: Rule) -> int:
    return _PREFERENCE[rule.origin]


def _is_inert(rule: Rule, posture: Posture) -> bool:
    return posture is Posture.DENY_ALL and rule.effect is Effect.ALLOW and rule.origin is not Origin.LOCAL


def _literal_start(labels: tuple[str, ...]) -> int:
    """Return the position after the last label with a wildcard."""
    for position in range(len(labels), 0, -1):
        if "*" in labels[position - 1] or "?" in labels[position - 1]:
            return position
    return 0


def _labels_match(globs: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    if globs[0] == "**":
        globs = globs[1:]
        if len(labels) <= len(globs):
            return False
        labels = labels[len(labels) - len(globs) :]
    return len(globs) == len(labels) and all(map(_label_matches, globs, labels))


def _label_matches(glob: str, label: str) -> bool:
    """Match one label, whose length bounds the work: at most one step for each pair of characters.

    On a mismatch only the last `*` takes one character more: an earlier one never needs to.
    """
    at_glob = at_label = 0
    star = -1
    after_star = 0
    while at_label < len(label):
        if at_glob < len(glob) and glob[at_glob] == "*":
            star, after_star = at_glob, at_label
            at_glob += 1
        elif at_glob < len(glob) and glob[at_glob] in ("?", label[at_label]):
            at_glob += 1
            at_label += 1
        elif star >= 0:
            after_star += 1
            at_glob, at_label = star + 1, after_star
        else:
            return False
    return not glob[at_glob:].strip("*")


def _add(table: dict[_Key, _Ranks], key: _Key, rank: int) -> None:
    before = table.get(key)
    if before is None:
        table[key] = rank
    elif isinstance(before, int):
        table[key] = [before, rank]
    else:
        before.append(rank)


def _each(ranks: _Ranks | None) -> Iterable[int]:
    if ranks is None:
        return ()
    return (ranks,) if isinstance(ranks, int) else ranks
