"""The audit trail as people read it: the records of one connection or request put together as one row, pure.

Rules:

1. A denied connection or request is a row at once. An allowed one is a row when it got its answer (`Established`) or
   ended (`Closed`), whichever comes first.
2. A connection whose requests were recorded one by one is no row: its requests are.
3. A permission that was taken back before anything was sent (the name turned out to have a forbidden address, say) has
   a second, denying record: that one is the row.
4. Packets that were dropped are a row, and blocked; so are denials that were counted. A lookup that was denied is one
   only for those who ask for lookups, counted ones too: the connection that follows is what people look for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

from sandhold.model.destination import MalformedError, parse_host
from sandhold.model.event import EventId
from sandhold.model.rule import Effect
from sandhold.store.encoding import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandhold.store.records import Record

PENDING_MAX: Final = 100_000  # open connections of a trail that is followed: more than a session may have
UNNAMED: Final = "-"


class RowKind(StrEnum):
    """What a row is about."""

    CONNECTION = "connection"
    REQUEST = "request"
    LOOKUP = "lookup"
    DROPPED = "dropped"
    REPEATED = "repeated"


_ROW_KINDS: Final = frozenset(kind.value for kind in RowKind)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `policy log`.

    `host` is text from the sandbox, in printable ASCII. `status` is None where there was no answer (`-`). `because` is
    the name of the rule, or the reason. `is_open` says that it was allowed and has not ended; then bytes and duration
    are None. `protocol` names dropped packets (`udp`), or the type of a lookup. `attempts` is how many there were where
    one record counts several, `of` the kind of those. `user` is the id inside of who made it, where that is known,
    `connection` the event of the connection that a request came on.
    """

    time: str
    event: str
    sandbox: str
    kind: RowKind
    effect: Effect
    host: str
    port: int | None
    method: str | None
    path: str | None
    status: int | None
    bytes_up: int | None
    bytes_down: int | None
    duration_s: float | None
    because: str
    why: str | None
    generation: int | None
    via: str | None
    protocol: str | None
    detail: str | None
    is_open: bool
    attempts: int = 1
    of: str | None = None
    user: int | None = None
    connection: str | None = None

    @property
    def is_lookup(self) -> bool:
        """Whether it is a name that was asked for, or many of those."""
        return RowKind.LOOKUP in (self.kind, self.of)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows to show.

    Times are in seconds since the epoch. `host` is one host in any spelling, or a glob (`*.example.com`, where `*` also
    matches dots). `event` is one event, or the connection of requests.
    """

    since: float | None = None
    until: float | None = None
    effect: Effect | None = None
    host: str | None = None
    has_lookups: bool = False
    event: str | None = None

    def __post_init__(self) -> None:
        if self.host is not None:
            object.__setattr__(self, "host", _canonical_host(self.host))

    def __contains__(self, row: Row) -> bool:
        return (
            (self.since is None or row.time >= timestamp(self.since))
            and (self.until is None or row.time < timestamp(self.until))
            and (self.effect is None or row.effect is self.effect)
            and (self.host is None or fnmatchcase(row.host, self.host))
            and (self.event is None or self.event in (row.event, row.connection))
            and (self.has_lookups or not row.is_lookup)
        )

    def names(self, record: Record) -> bool:
        """Whether the row of a record would be for the host that is asked for, which is told before there is a row."""
        return self.host is None or fnmatchcase(_host(record), self.host)


@dataclass(frozen=True, slots=True)
class Page:
    """The newest rows, oldest first, and the records of what was allowed and has no answer yet.

    Whoever follows the trail shows `answered`, feeds `pending` to a `LiveRows`, and goes on from where the page ends.
    """

    rows: tuple[Row, ...]
    pending: tuple[Record, ...]

    @property
    def answered(self) -> tuple[Row, ...]:
        """The rows that nothing is to be waited for."""
        waiting = {record.event for record in self.pending}
        return tuple(row for row in self.rows if row.event not in waiting)


def newest_rows(backwards: Iterable[Record], wanted: Wanted, limit: int | None = None) -> Page:
    """Put together the newest rows of a trail that is read backwards, and stop reading when there are enough.

    Going backwards, what became of a connection is known before the connection is met.
    """
    rows: list[Row] = []
    pending: list[Record] = []
    outcomes: dict[str, _Outcome] = {}
    with_requests: set[str] = set()
    revoked: set[str] = set()
    for record in backwards:
        if limit is not None and len(rows) >= limit:
            break
        if record.kind in ("established", "closed"):
            outcomes[record.event] = _with(outcomes.get(record.event), record)
            continue
        if record.connection is not None:
            with_requests.add(record.connection)
        if record.event in revoked and _waits(record):
            revoked.discard(record.event)
            continue
        if _decides(record) and record.decision == Effect.DENY:
            revoked.add(record.event)
        if record.kind == RowKind.CONNECTION and record.event in with_requests:
            with_requests.discard(record.event)
            outcomes.pop(record.event, None)
            continue
        outcome = outcomes.pop(record.event, None)
        row = _row(record, outcome) if wanted.names(record) else None
        if row is not None and row in wanted:
            rows.append(row)
        if _waits(record) and outcome is None:
            pending.append(record)
    return Page(tuple(reversed(rows)), tuple(reversed(pending)))


class LiveRows:
    """Rows from records that arrive one at a time: feed each in, get the rows that are ready."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._pending: dict[str, Record] = {}

    def feed(self, record: Record) -> tuple[Row, ...]:
        """Take the next record; returns the rows that it completes, as a rule one or none."""
        if record.connection is not None:
            self._pending.pop(record.connection, None)
        if _waits(record):
            while len(self._pending) >= PENDING_MAX:
                del self._pending[next(iter(self._pending))]
            self._pending[record.event] = record
            return ()
        if record.kind in ("established", "closed"):
            decided = self._pending.pop(record.event, None)
            return () if decided is None else self._shown(_row(decided, _with(None, record)))
        if _decides(record):
            self._pending.pop(record.event, None)
        return self._shown(_row(record, None))

    def open_rows(self) -> tuple[Row, ...]:
        """Return the rows of what was allowed and has had no answer yet."""
        return tuple(row for record in self._pending.values() for row in self._shown(_row(record, None)))

    def _shown(self, row: Row | None) -> tuple[Row, ...]:
        return () if row is None or row not in self._wanted else (row,)


def unclosed(backwards: Iterable[Record], session: str) -> tuple[EventId, ...]:
    """Return what a session allowed and never recorded the end of, oldest first: a killed session's open connections.

    The session's records are sought backwards as far as its start.
    """
    closed: set[str] = set()
    open_events: list[EventId] = []
    for record in backwards:
        if record.session != session:
            continue
        if record.kind == "session-started":
            break
        if record.kind == "closed":
            closed.add(record.event)
        elif _waits(record) and record.event not in closed:
            open_events.append(EventId(record.event))
    return tuple(reversed(open_events))


class _Outcome(NamedTuple):
    established: Record | None
    closed: Record | None


def _with(outcome: _Outcome | None, record: Record) -> _Outcome:
    """Return what is known of an outcome with one record more."""
    established, closed = outcome or (None, None)
    return _Outcome(established, record) if record.kind == "closed" else _Outcome(record, closed)


def _decides(record: Record) -> bool:
    return record.kind in (RowKind.CONNECTION, RowKind.REQUEST)


def _waits(record: Record) -> bool:
    return _decides(record) and record.decision == Effect.ALLOW


def _row(record: Record, outcome: _Outcome | None) -> Row | None:
    if record.kind not in _ROW_KINDS:
        return None
    effect = Effect.ALLOW if record.decision == Effect.ALLOW else Effect.DENY
    closed = None if outcome is None else outcome.closed
    return Row(
        time=record.time,
        event=record.event,
        sandbox=record.sandbox,
        kind=RowKind(record.kind),
        effect=effect,
        host=_host(record),
        port=record.port if record.host is not None or record.original is None else record.original.port,
        method=record.method,
        path=record.path,
        status=_status(effect, outcome),
        bytes_up=None if closed is None else closed.bytes_up,
        bytes_down=None if closed is None else closed.bytes_down,
        duration_s=None if closed is None else closed.duration_s,
        because=record.rule_name or record.reason or UNNAMED,
        why=None if closed is None else closed.why,
        generation=record.generation,
        via=record.via,
        protocol=record.query_type if record.kind == RowKind.LOOKUP else record.protocol,
        detail=(None if closed is None else closed.detail) or record.detail,
        is_open=_waits(record) and closed is None,
        attempts=record.packets or record.count or 1,
        of=record.of,
        user=record.user,
        connection=record.connection,
    )


def _canonical_host(text: str) -> str:
    try:
        return str(parse_host(text))
    except MalformedError:
        return text.lower()


def _host(record: Record) -> str:
    if record.host is not None:
        return _UNPRINTABLE.sub(lambda found: f"\\u{{{ord(found.group()):x}}}", record.host)
    return UNNAMED if record.original is None else record.original.address


def _status(effect: Effect, outcome: _Outcome | None) -> int | None:
    if effect is Effect.DENY or outcome is None:
        return None
    for record in (outcome.closed, outcome.established):
        if record is not None and record.status is not None:
            return record.status
    return None
