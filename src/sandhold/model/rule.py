"""One line of policy, and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Network, IPv6Network

RuleId = NewType("RuleId", str)
"""`local:<uuid>` for a local rule, the group's name (`default-ai-services`) for a rule of a default group."""

Generation = NewType("Generation", int)
"""One state of the whole policy, numbered from 1; every change makes the next."""

PORT_MAX = 65535


class Effect(StrEnum):
    """What a rule says, and what a decision says."""

    ALLOW = "allow"
    DENY = "deny"


class Origin(StrEnum):
    """Who wrote a rule."""

    PRESET = "preset"
    AGENT = "agent"
    LOCAL = "local"


class Posture(StrEnum):
    """What holds where no rule matches. Under `deny-all` only local rules can allow."""

    BALANCED = "balanced"
    ALLOW_ALL = "allow-all"
    DENY_ALL = "deny-all"


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


EVERY_PORT = (PortRange(1, PORT_MAX),)
WEB_PORTS = (PortRange(80, 80), PortRange(443, 443))


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A host name with wildcards, label by label from the left.

    The first label may be `**` (one label or more); any label but the last may hold `*` (any run of characters, also
    none, never a dot) and `?` (one character). A label that is `*` alone stands for exactly one label.
    """

    labels: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.labels)


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """An address or a network."""

    network: IPv4Network | IPv6Network

    def __str__(self) -> str:
        single = self.network.prefixlen == self.network.max_prefixlen
        return str(self.network.network_address) if single else str(self.network)


@dataclass(frozen=True, slots=True)
class HostServicePattern:
    """A service on the user's machine, `localhost` in every spelling."""

    def __str__(self) -> str:
        return "localhost"


@dataclass(frozen=True, slots=True)
class EverythingPattern:
    """`**`: every name and every address that the floor leaves open."""

    def __str__(self) -> str:
        return "**"


Pattern = NamePattern | AddressPattern | HostServicePattern | EverythingPattern


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of policy.

    `name` is what a person calls it (`default-ai-services`, `local:<uuid>`); the rules of one group share it.
    `resource` is the text as it was written, for `policy ls`. `sandbox` is None for every sandbox. `expires_at` is in
    seconds since the epoch (UTC), None for never; the rule no longer matches from that moment on.
    """

    id: RuleId
    name: str
    effect: Effect
    pattern: Pattern
    ports: tuple[PortRange, ...]
    resource: str
    sandbox: str | None = None
    origin: Origin = Origin.LOCAL
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One generation of the whole policy."""

    generation: Generation
    posture: Posture
    rules: Sequence[Rule]
