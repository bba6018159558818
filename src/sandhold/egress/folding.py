"""A flood of denials on its way to the trail: beyond a rate, equal ones are counted in one record instead of one each.

Rules (threats L07 and P5):

1. A denial has a record of its own while there are tokens in both buckets, for now and for the session's whole life.
   Beyond that it is counted, with every other of the same kind, destination and reason, in one `Repeated` record: how
   many, and from when to when.
2. The count is exact: whoever is denied learns it once the record that counts the denial is on disk, as with any other,
   and is told the event of that record.
3. What was allowed is never counted, nor a denial of something that was allowed before, nor the end of either.
4. More destinations than `GROUPS_MAX` in one go are counted together. Once the session's share of the trail is spent
   (`Recorder`), all are.
5. A flood that goes on is slowed: the more such records there are, the longer the next one waits (`PAUSES`), and
   whoever is denied too. One denial tried without end takes three weeks to fill a session's share of the trail.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.egress.token_bucket import TokenBucket
from sandhold.model.event import Closed, Connection, Lookup, Repeated, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandhold.model.event import Event, EventId

DENIALS_RATE: Final = 50.0  # a second with a record each: a program that tries again and again, not a person
DENIALS_BURST: Final = 5000  # an installer of a large project whose registry is denied
GROUPS_MAX: Final = 64  # records of one go; a flood of names is of one kind
LASTING_RATE: Final = 0.1  # a second, of a session's whole life: ten megabytes a day
LASTING_BURST: Final = 50_000  # ten large installers all denied, or a quarter of an hour of the worst flood
PAUSES: Final = ((100_000, 2.0), (20_000, 0.5), (0, 0.0))
"""From how many records of counts on the next one waits how many seconds: after a few megabytes there are two a second,
so that a denial still comes within a second; after half a day of that, one in two."""
SPENT_PAUSE_S: Final = 0.5  # where everything is a denial, at least so long
REMEMBERED_MAX: Final = 16_384  # events whose end is still to come: twice the connections and requests there can be

Decided = Connection | Request | Lookup
_DECIDED: Final = (Connection, Request, Lookup)  # a tuple is looked through faster than a union


@dataclass(frozen=True, slots=True)
class Counted:
    """One denial that is to be counted, and when it came."""

    event: Decided
    at: float


class Folding:
    """Tells what is written from what is counted, for one session; used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._bucket = TokenBucket(DENIALS_RATE, DENIALS_BURST, clock)
        self._share = TokenBucket(LASTING_RATE, LASTING_BURST, clock)
        self._allowed: OrderedDict[EventId, EventId | None] = OrderedDict()
        self._counted: OrderedDict[EventId, EventId | None] = OrderedDict()

    def sift(
        self, events: tuple[Event, ...], now: float, *, is_spent: bool
    ) -> tuple[tuple[Event, ...], Counted | None]:
        """Return what of these events, which belong together, is written as it is, and what is counted.

        `is_spent` says that nothing is written as it is any more that can be counted.
        """
        denied = [event for event in events if isinstance(event, _DECIDED) and not event.decision.is_allowed]
        if not (denied or self._counted) or not self._can_be_counted(events, denied):
            return self._written(events), None
        if not denied:
            return tuple(event for event in events if not self._is_end_of_counted(event)), None
        if not is_spent and self._bucket.take() and self._share.take():
            return events, None
        for event in denied:
            _remember(self._counted, event.event)
        return (), Counted(denied[-1], now)  # of a connection and the request on it, the request is the attempt

    def fold(self, counted: Sequence[Counted], groups_max: int, new_event: Callable[[], EventId]) -> list[Event]:
        """Write denials as counts, by rules 1 and 4; the last of a group says what its record says."""
        groups: dict[object, list[Counted]] = {}
        for each in counted:
            key = _key(each.event)
            if key not in groups and len(groups) >= groups_max - 1:
                key = None
            groups.setdefault(key, []).append(each)
        written: list[Event] = []
        for key, members in groups.items():
            record = _repeated(members, new_event(), is_mixed=key is None)
            for each in members:
                _remember(self._counted, each.event.event, record.event)
            written.append(record)
        return written

    def counted_as(self, event: EventId) -> EventId | None:
        """Return the event of the record that counts this denial; None when it has a record of its own. It is known
        from when the count is written."""
        return self._counted.get(event)

    def _can_be_counted(self, events: tuple[Event, ...], denied: list[Decided]) -> bool:
        """Rule 3. Without a denial among them there may be ends of counted ones."""
        if not denied:
            return any(self._is_end_of_counted(event) for event in events)
        others = [event for event in events if event not in denied and not isinstance(event, Closed)]
        return not others and not any(event.event in self._allowed for event in denied)

    def _written(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        for event in events:
            if isinstance(event, Connection | Request) and event.decision.is_allowed:
                _remember(self._allowed, event.event)
            elif isinstance(event, Closed):
                self._allowed.pop(event.event, None)
        return events

    def _is_end_of_counted(self, event: Event) -> bool:
        return isinstance(event, Closed) and event.event in self._counted


def pause_s(counts: int) -> float:
    """Return how long the next count waits when a session has written so many (rule 5)."""
    return next(pause for least, pause in PAUSES if counts >= least)


def _repeated(members: list[Counted], event: EventId, *, is_mixed: bool) -> Repeated:
    last = members[-1].event
    times = [each.at for each in members]
    host, port = _where(last)
    return Repeated(
        event=event,
        of=type(last).__name__.lower(),
        host=None if is_mixed else host,
        port=None if is_mixed else port,
        decision=last.decision,
        count=len(members),
        first=min(times),
        last=max(times),
        is_mixed=is_mixed,
    )


def _key(event: Decided) -> object:
    decision = event.decision
    rule = decision.rule.id if decision.rule is not None else None
    return type(event), _where(event), decision.reason, rule, decision.generation


def _where(event: Decided) -> tuple[str | None, int | None]:
    if isinstance(event, Lookup):
        return event.name, None
    if event.destination is not None:
        return str(event.destination.host), event.destination.port
    if isinstance(event, Connection) and event.original is not None:
        return str(event.original[0]), event.original[1]
    return None, None


def _remember(events: OrderedDict[EventId, EventId | None], event: EventId, as_part_of: EventId | None = None) -> None:
    events[event] = as_part_of
    if len(events) > REMEMBERED_MAX:
        events.popitem(last=False)
