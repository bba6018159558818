"""What one connection needs of the program, passed first to everything that handles one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.egress.certificates import Authority
    from sandhold.egress.flows import Flows
    from sandhold.egress.pipes import PipePool
    from sandhold.egress.reactor import Reactor
    from sandhold.egress.synthetic_names import SyntheticNames
    from sandhold.egress.upstream import Upstream
    from sandhold.model.event import Event, EventId
    from sandhold.policy.index import PolicyIndex


class RecordUnavailableError(Exception):
    """A decision could not be put on durable record; nothing may leave."""


class Record(Protocol):
    """Puts events on durable record, all or none."""

    async def __call__(self, *events: Event) -> EventId | None:
        """Return once they are durable, with the event of the record that counts the last of them, None when it has
        one of its own.

        Raises:
            RecordUnavailableError: when they are not.
        """


class NoteDenial(Protocol):
    """Queues denials that could not be recorded, or counts them as one when too many wait; never fails."""

    def __call__(self, *events: Event) -> None:
        """Queue them, to be written together."""


class UserOf(Protocol):
    """Tells which user inside an accepted connection is of; never fails, never waits."""

    def __call__(self, accepted: socket.socket, headed: tuple[IPv4Address | IPv6Address, int], /) -> int | None:
        """Return the user's id inside, None when it is not known."""


def nobody(_accepted: socket.socket, _headed: tuple[IPv4Address | IPv6Address, int], /) -> int | None:
    """Know no user: nothing here can tell."""
    return None


@dataclass(slots=True)
class Gateway:
    """The one mutable part is `index`: `apply` replaces it, and every decision reads it afresh.

    `note` queues an event that follows from one on record and never fails; `note_denial` queues a denial that could not
    be recorded. `is_trail_spent` says that nothing may be allowed any more in this session. `authority` is a call
    because the key is only read when the first refusal over TLS needs it. `now` is wall time, for the expiry of rules.
    `original_destination` says where an accepted connection was headed, `user_of` whose it is, where that is known.
    `resolvers` reads the host's nameservers, for query types other than A and AAAA: a host that moves gets others.
    """

    reactor: Reactor
    sandbox: str
    names: SyntheticNames
    authority: Callable[[], Authority]
    index: PolicyIndex
    record: Record
    note: Callable[[Event], None]
    note_denial: NoteDenial
    is_trail_spent: Callable[[], bool]
    upstream: Upstream
    flows: Flows
    pipes: PipePool
    now: Callable[[], float]
    new_event: Callable[[], EventId]
    original_destination: Callable[[socket.socket], tuple[IPv4Address | IPv6Address, int]]
    resolvers: Callable[[], tuple[str, ...]]
    user_of: UserOf = nobody
