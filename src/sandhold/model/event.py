"""What goes on record. The envelope (sequence, time, sandbox, session, hash) is the audit trail's: `store/audit.py`.

Text in an event is text from the sandbox until proven otherwise: the trail and the screen escape it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.model.decision import Decision
    from sandhold.model.destination import Destination
    from sandhold.model.rule import Generation

EventId = NewType("EventId", str)
"""Ties the records of one connection, request or lookup together: 26 characters of Crockford base 32 (a ULID)."""

ULID_RANDOM_BYTES = 10
CHANGES_MAX = 500  # of one record: nobody reads more, and all of them are in the workspace
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)


def make_event_id(milliseconds: int, randomness: bytes) -> EventId:
    """Write 48 bits of time since the epoch and 80 random bits as a ULID, which sorts by time."""
    number = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(randomness[:ULID_RANDOM_BYTES], "big")
    return EventId("".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)]))


class Via(StrEnum):
    """How a connection or a lookup came to us."""

    TRANSPARENT = "transparent"
    PROXY = "proxy"
    DNS = "dns"


class Why(StrEnum):
    """Why a connection ended."""

    DONE = "done"
    """Both sides finished."""
    REFUSED = "refused"
    """It was denied; the refusal is all that was sent."""
    DOWNSTREAM_GONE = "downstream-gone"
    UPSTREAM_GONE = "upstream-gone"
    """The far end reset the connection or broke its protocol."""
    UPSTREAM_UNREACHABLE = "upstream-unreachable"
    UPSTREAM_TIMEOUT = "upstream-timeout"
    NAME_NOT_FOUND = "name-not-found"
    IDLE = "idle"
    CLOSED_BY_POLICY = "closed_by_policy"
    SESSION_ENDED = "session-ended"
    LOST = "lost"
    """Egress or the session was killed; whoever came next wrote the record, and how much was sent is not known."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The decision on one connection; durable before a byte of it leaves.

    `destination` is None when nothing could be named. `original` is the address the sandbox dialled, None for an
    explicit proxy request. `detail` says what was malformed, in our own words. `user` is the id inside of the user who
    made the connection, None where that is not known.
    """

    event: EventId
    via: Via
    destination: Destination | None
    claims: tuple[Destination, ...]
    original: tuple[IPv4Address | IPv6Address, int] | None
    decision: Decision
    detail: str | None = None
    user: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """The decision on one HTTP request that we read; `connection` is the event of the connection it came on.

    `path` is without its query, `user` as in the connection's.
    """

    event: EventId
    connection: EventId
    via: Via
    destination: Destination | None
    claims: tuple[Destination, ...]
    method: str
    path: str
    decision: Decision
    detail: str | None = None
    user: int | None = None


@dataclass(frozen=True, slots=True)
class Established:
    """An allowed connection or request got its answer: what `policy log -f` waits for.

    `status` is the HTTP status the sandbox got, 200 for a tunnel that we do not read. `resolved` are the addresses the
    name had, `dialled` the one that was vetted and dialled (None behind a proxy of the host's own). `proxy` is that
    proxy as `host:port`.
    """

    event: EventId
    status: int | None
    resolved: tuple[IPv4Address | IPv6Address, ...]
    dialled: tuple[IPv4Address | IPv6Address, int] | None
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection or request ended. `bytes_up` left the sandbox, `bytes_down` came to it; `duration_s` since the
    decision."""

    event: EventId
    status: int | None
    bytes_up: int
    bytes_down: int
    duration_s: float
    why: Why
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """A name was asked for; one record the first time each (name, type) is seen in a session.

    `asked_outside` says whether the question was put to a resolver of the host (never for A and AAAA).
    """

    event: EventId
    name: str
    query_type: str
    decision: Decision
    asked_outside: bool
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets that went nowhere, counted by the cell since the record before. `protocol` is `udp`, `icmp`, ...;
    address and port are None where the cell only counts."""

    event: EventId
    protocol: str
    address: IPv4Address | IPv6Address | None
    port: int | None
    packets: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """Denials of one kind (`of`: `connection`, `request`, `lookup`) to one destination for one reason, counted: they
    came faster than each is worth a record. `first` and `last` are in seconds since the epoch.

    `is_mixed` says that there were several destinations or reasons; the decision is then the last one's.
    """

    event: EventId
    of: str
    host: str | None
    port: int | None
    decision: Decision
    count: int
    first: float
    last: float
    is_mixed: bool = False


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """Somebody changed the policy: `action` is `allow`, `deny`, `rm`, `init` or `reset`; `actor` is the host's user
    name; `rules` are the ids touched. `never-made` takes back the record with the same event, whose change a crash
    prevented."""

    event: EventId
    action: str
    actor: str
    generation: Generation
    resources: tuple[str, ...]
    rules: tuple[str, ...]
    sandbox: str | None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class GenerationSwitched:
    """A running session took over another generation (`--now`); `cut` connections were closed by it."""

    event: EventId
    before: Generation
    after: Generation
    cut: int


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A session started; everything until its stop runs under this generation unless a switch says otherwise."""

    event: EventId
    actor: str
    agent: str
    isolation: str
    template: str
    generation: Generation
    version: str


@dataclass(frozen=True, slots=True)
class SessionStopped:
    """A session ended. `reason` is `stopped`, `idle` (nobody attached), `lost` (killed; written by the next command),
    `egress-died` or `cell-died`. `detail` is what is known of an end that nobody asked for; it may be a stranger's
    words."""

    event: EventId
    reason: str
    actor: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """The trail's last line was torn (a crash or a full disk while it was written); `torn_bytes` that nobody had been
    told were on record were cut off."""

    event: EventId
    torn_bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """`sbx verify` tried to break out."""

    event: EventId
    attempts: int
    escaped: int
    skipped: int


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of a workspace that runs by itself: `what` is `new`, `changed` or `gone`, `why` says who runs it."""

    what: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class WorkspaceChanged:
    """What runs by itself in the sandbox's folders is not what it was when the session started.

    `files` are at most `CHANGES_MAX`, `more` is how many there were beside them; `unseen` says why a part was not
    looked at.
    """

    event: EventId
    files: tuple[FileChange, ...]
    more: int
    unseen: str | None


@dataclass(frozen=True, slots=True)
class AnchorFailed:
    """The head of the trail, record `seq` with this `hash`, could not be kept at `target`; `problem` says why."""

    event: EventId
    target: str
    seq: int
    hash: str
    problem: str


Event = (
    Connection
    | Request
    | Established
    | Closed
    | Lookup
    | Dropped
    | Repeated
    | PolicyChanged
    | GenerationSwitched
    | SessionStarted
    | SessionStopped
    | Recovered
    | Verified
    | WorkspaceChanged
    | AnchorFailed
)
